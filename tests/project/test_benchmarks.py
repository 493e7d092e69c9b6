"""The benchmarks measure: a few rows, for a moment. What they find is not looked at, as this machine may be busy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import report, rows, sides
from benchmarks.__main__ import main, measure
from benchmarks.calls import Calls, CallsFailed, Method
from benchmarks.harness import Effort, Figure, Goal, Result, Round, Turn
from benchmarks.place import Place
from handfast.users.v1.users_pb2 import GetUserRequest

BRIEF = Effort(rounds=1, seconds=0.1)


def test_rows_are_measured_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--only", "get-user", "atomic-update", "--engine", "sqlite", "--rounds", "1", "--seconds", "0.1"])
    printed, progress = capsys.readouterr()
    assert "| GetUser | an echo | sqlite |" in printed
    assert "| UpdateUserAndPreferences, finishing included | an echo | sqlite |" in printed
    assert "get-user on sqlite, round 1 of 1: " in progress


def test_a_call_that_fails_stops_the_measurement() -> None:
    """By what its caller sees, or by what the servers count."""

    def start(place: Place) -> Calls:
        side = sides.get_user(place)
        assert isinstance(side, Calls)
        (method,) = side.methods
        unknown = GetUserRequest(user_id="nobody").SerializeToString()
        return Calls([Method(method.path, method.connect, lambda number: unknown)], side.servers)

    (get_user,) = (row for row in rows.TABLES["cost"] if row.name == "get-user")
    with pytest.raises(CallsFailed, match="NOT_FOUND"):
        list(measure([dataclasses.replace(get_user, side=start)], ["sqlite"], BRIEF))


def test_layers_are_the_differences_between_rows() -> None:
    def measured(name: str, side: int, beside: int) -> report.Measured:
        (row,) = (row for table in rows.TABLES.values() for row in table if row.name == name)
        turns = (Turn(1, 1.0, 1.0, each / 1e6) for each in (side, beside))
        return report.Measured(row, "sqlite", Result(Figure.CPU, (Round(*turns),)))

    costs = [("empty-bare", 140, 100), ("get-user", 240, 100), ("two-updates", 900, 100), ("atomic-update", 2000, 100)]
    found = report.layers([measured(*each) for each in costs])
    assert [line.split(" | ")[-1] for line in found.splitlines()[2:]] == ["100 |", "40 |", "100 |", "900 |", "1,100 |"]
    assert report.layers([measured(*costs[0])]) == ""


def test_results_are_the_medians_of_rounds(tmp_path: Path) -> None:
    turns = [(300, 100), (200, 100), (900, 100)]  # calls of the two sides
    rounds = tuple(Round(Turn(one, 1.0, 2.0, 0.5), Turn(other, 1.0, 2.0, 0.5)) for one, other in turns)
    result = Result(Figure.RATE, rounds)
    assert (result.side, result.beside, result.ratio, result.ratios) == (300, 100, 3, [2, 3, 9])
    assert Goal(3, at_most=False).reached(result)
    assert not Goal(2).reached(result)
    assert Goal(300, absolute=True).reached(result)
    (row, *_) = rows.TABLES["guarantee"]
    assert "| 300 calls/s | 100 calls/s | **3.00** | 2.00 … 9.00 | ≥ 0.7 | reached | 0.33 |" in report.tables(
        [report.Measured(row, "sqlite", result)]
    )
