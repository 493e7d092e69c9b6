"""The benchmarks measure: a few rows, for a moment. What they find is not looked at, as this machine may be busy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import report, rows, sides
from benchmarks.__main__ import main, measure
from benchmarks.calls import Calls, Method
from benchmarks.harness import Effort, Figure, Goal, Result, Round, Turn
from benchmarks.place import Place
from handfast.users.v1.users_pb2 import GetUserRequest

BRIEF = Effort(rounds=1, seconds=0.1)


def test_rows_are_measured_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("get-user", "atomic-update", "get-user-secure", "transaction-at-once")
    main(["--only", *names, "--engine", "sqlite", "--rounds", "1", "--seconds", "0.1"])
    printed, progress = capsys.readouterr()
    assert "| GetUser | an echo | sqlite |" in printed
    assert "| UpdateUserAndPreferences, finishing included | an echo | sqlite |" in printed
    assert (
        "| UpdateUser and UpdatePreferences in a transaction, at the same time | UpdateUserAndPreferences |" in printed
    )
    assert "| GetUser by mutual TLS, with a token | GetUser |" in printed
    assert "row 2 of 4, after " in progress
    assert " minutes: atomic-update on sqlite\n  round 1 of 1: " in progress


def test_a_row_with_a_call_that_fails_is_not_measured_and_others_are() -> None:

    def start(place: Place) -> Calls:
        side = sides.get_user(place)
        assert isinstance(side, Calls)
        (method,) = side.methods
        unknown = GetUserRequest(user_id="nobody").SerializeToString()
        return Calls([Method(method.path, method.connect, lambda number: unknown)], side.servers)

    (get_user,) = (row for row in rows.TABLES["cost"] if row.name == "get-user")
    failing = dataclasses.replace(get_user, side=start)
    failed, measured = measure([failing, get_user], ["sqlite"], BRIEF)
    assert failed == report.Failed(failing, "sqlite", "CallsFailed: NOT_FOUND")
    assert isinstance(measured, report.Measured)
    shown = report.tables([failed, measured])
    assert "- get-user on sqlite: CallsFailed: NOT_FOUND" in shown
    assert "| GetUser | an echo | sqlite |" in shown


def test_layers_are_the_differences_between_rows() -> None:
    def measured(name: str, side: int, beside: int) -> report.Measured:
        (row,) = (row for table in rows.TABLES.values() for row in table if row.name == name)
        turns = (Turn(1, 1.0, 1.0, each / 1e6) for each in (side, beside))
        return report.Measured(row, "sqlite", Result(Figure.CPU, (Round(*turns),)))

    costs = [("empty-bare", 140), ("get-user", 240), ("two-updates", 900), ("facade", 1500), ("atomic-update", 2600)]
    found = report.layers([measured(name, cost, 100) for name, cost in costs])
    us = [line.split(" | ")[-1].removesuffix(" |") for line in found.splitlines()[2:]]
    assert us == ["100", "40", "100", "900", "600", "1,100"]
    assert report.layers([measured("empty-bare", 140, 100)]) == ""


def test_results_are_the_medians_of_rounds(tmp_path: Path) -> None:
    turns = [(300, 100), (200, 100), (900, 100)]  # calls of the two sides
    rounds = tuple(Round(Turn(one, 1.0, 2.0, 0.5), Turn(other, 1.0, 2.0, 0.5)) for one, other in turns)
    result = Result(Figure.RATE, rounds)
    assert (result.side, result.beside, result.ratio, result.ratios) == (300, 100, 3, [2, 3, 9])
    assert Goal(3, at_most=False).reached(result)
    assert not Goal(2).reached(result)
    assert Goal(300, absolute=True).reached(result)
    (row, *_) = rows.TABLES["guarantee"]
    assert "| 300 calls/s | 100 calls/s | **3.00** | 2.00 … 9.00 | ≥ 0.7 | yes | 0.33 |" in report.tables(
        [report.Measured(row, "sqlite", result)]
    )


def test_the_summary_names_the_goals_that_are_missed() -> None:
    (throughput, latency) = rows.TABLES["guarantee"]
    turns = Turn(100, 1.0, 2.0, 0.5), Turn(100, 1.0, 1.0, 0.5)
    found = [report.Measured(row, "sqlite", Result(row.figure, (Round(*turns),))) for row in (throughput, latency)]
    assert report.summary(found) == "1 of 2 goals were reached. Missed: `latency` on sqlite."
    assert report.summary(found[:1]) == "1 of 1 goals were reached. Missed: none."
