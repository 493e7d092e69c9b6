"""Short forms of `make crash` and `make contend`; docs/crashes.md has what is checked."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.cli.processes import Process
from tests.crashes.contend import FEW, crowd
from tests.crashes.run import crash
from tests.crashes.suite import DATABASES, POSTGRESQL
from tests.eventually import PATIENCE


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", DATABASES)
def test_clients_of_a_suite_that_is_killed_see_nothing_wrong(database: str, tmp_path: Path) -> None:
    report = crash(database, folder=tmp_path, kills=6, seconds=4, clients=6, seed=database, longest_pause=1)
    print(report)
    assert not report.violations
    assert not report.stuck(PATIENCE)  # how soon it is free, `make crash` says
    assert report.kills.total() >= 3  # those who supervise not counted: all servers at the end
    assert (POSTGRESQL in report.kills) == (database == POSTGRESQL)
    assert report.acknowledged > 0


def test_clients_that_update_the_same_accounts_lose_nothing(running: Process) -> None:
    with contextlib.ExitStack() as stack:
        outcome = crowd([stack.enter_context(running.connect()) for _ in range(8)], accounts=FEW, seconds=2)
    print(outcome)
    assert not outcome.lost
    assert not outcome.stuck
    assert outcome.updates > 0
