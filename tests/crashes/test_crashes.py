"""Short forms of `make crash` and `make contend`; docs/crashes.md has what is checked."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from tests.cli.processes import Process
from tests.crashes.contend import FEW, RIVALS, crowd
from tests.crashes.money import move
from tests.crashes.rivals import compete
from tests.crashes.run import crash
from tests.crashes.suite import CREDITS, DATABASES, POSTGRESQL
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


def test_transactions_of_many_clients_over_few_accounts_are_strictly_serializable_and_all_come_through(
    running: Process,
) -> None:
    with contextlib.ExitStack() as stack:
        faces = [stack.enter_context(running.connect()) for _ in range(RIVALS)]
        report = compete(faces, prefix=f"rivals-{uuid.uuid4().hex[:8]}", most=4)
    print(report)
    assert not report.anomalies
    assert report.committed == [4] * RIVALS


@pytest.mark.timeout(300)
def test_credits_that_are_moved_while_servers_are_killed_are_never_lost(tmp_path: Path) -> None:
    report = move("sqlite", folder=tmp_path, seconds=4, clients=8, seed="money", longest_pause=1)
    print(report)
    assert not report.violations
    assert report.acknowledged > 0
    assert CREDITS in report.kills
