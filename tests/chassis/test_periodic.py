"""Work that is done again and again: it survives its failures, and ends when told."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import pytest
import sqlalchemy as sa

from handfast.server.chassis import Periodic
from tests.eventually import PATIENCE, eventually


def test_a_round_that_fails_is_logged_and_the_next_one_comes(log: io.BytesIO, writer: Any) -> None:
    rounds: list[None] = []

    def work() -> None:
        rounds.append(None)
        if len(rounds) == 1:
            raise ValueError("a bad day")

    periodic = Periodic("cleaner", work, every=0.01)
    periodic.start()
    assert eventually(lambda: len(rounds) >= 2)
    periodic.stop(PATIENCE)
    writer.flush()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (failed,) = (line for line in lines if line.get("task") == "cleaner")
    assert failed["level"] == "error"
    assert "a bad day" in json.dumps(failed)


def test_while_a_database_is_away_a_round_that_fails_for_it_is_logged_in_one_line(log: io.BytesIO, writer: Any) -> None:
    rounds: list[None] = []

    def work() -> None:
        rounds.append(None)
        sa.create_engine("postgresql+psycopg://127.0.0.1:1/users").connect()

    periodic = Periodic("sweeper", work, every=0.01)
    periodic.start()
    assert eventually(lambda: len(rounds) >= 2)
    periodic.stop(PATIENCE)
    writer.flush()
    failed = next(line for line in map(json.loads, log.getvalue().splitlines()) if line.get("task") == "sweeper")
    assert "Connection refused" in failed["error.cause"]
    assert "exception" not in failed


def test_stop_waits_for_a_round_under_way_but_not_for_the_next(gate: threading.Event) -> None:
    working, ended = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        gate.wait(PATIENCE)
        ended.set()

    periodic = Periodic("cleaner", work, every=0.01)
    periodic.start()
    assert working.wait(PATIENCE)
    periodic.stop(0.05)
    assert periodic.stopping
    assert not ended.is_set()  # it waited no longer than it was told
    gate.set()
    periodic.stop(PATIENCE)
    assert ended.is_set()


def test_a_long_time_between_rounds_does_not_hold_up_the_stop() -> None:
    periodic = Periodic("cleaner", lambda: None, every=3600)
    periodic.start()
    began = time.monotonic()
    periodic.stop(PATIENCE)
    assert time.monotonic() - began < PATIENCE


def test_what_was_never_started_can_be_stopped() -> None:
    Periodic("cleaner", lambda: None, every=1).stop(PATIENCE)


def test_rounds_come_about_as_often_as_is_said_and_not_in_step_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    rounds: list[None] = []

    class Hurry(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return len(waits) > 1000

    periodic = Periodic("cleaner", lambda: rounds.append(None), every=60)
    monkeypatch.setattr(periodic, "_stopping", Hurry())
    periodic.start()
    assert eventually(lambda: len(rounds) == 1000)
    assert 30 <= min(waits) < 40
    assert 80 < max(waits) <= 90


def test_a_round_can_end_what_it_is_a_round_of() -> None:
    ended = threading.Event()

    def work() -> None:
        periodic.stop(PATIENCE)
        ended.set()

    periodic = Periodic("cleaner", work, every=0.01)
    periodic.start()
    assert ended.wait(PATIENCE / 2)
