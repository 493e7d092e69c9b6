"""Short forms of `make replicas`; docs/crashes.md has what is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE
from tests.replicas.faults import LASTS
from tests.replicas.run import upset


@pytest.mark.timeout(300)
def test_callers_of_replicas_that_are_restarted_killed_paused_and_cut_off_see_nothing_wrong(
    server: PostgreSQL, tmp_path: Path
) -> None:
    faults = {fault: min(lasts, 3.0) for fault, lasts in LASTS.items()}
    report = upset(tmp_path, server, faults, rounds=1, replicas=2, clients=3, seed="replicas", quiet=0.5)
    print(report)
    assert not report.violations
    assert not report.unexpected
    assert not report.stuck(PATIENCE)
    assert report.acknowledged > 0
