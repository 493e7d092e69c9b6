"""Measures two sides of a row in turns, so that what else the machine does meets both alike.

A round is a turn of the one side, then one of the other, and gives one ratio of the two. A row is the median of its
rounds, with the lowest and the highest ratio as the spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True)
class Turn:
    """What one side did: how many calls in how many seconds, the median time of one in milliseconds, and the CPU time
    in seconds of its servers for all that the calls left them to do.
    """

    calls: int
    seconds: float
    median_ms: float
    cpu_seconds: float

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_us(self) -> float:
        """Of one call."""
        return self.cpu_seconds / self.calls * 1e6


class Side(Protocol):
    """Something that is started and can be measured."""

    def turn(self, callers: int, seconds: float) -> Turn:
        """Has so many callers, each with one call at a time, call for so many seconds. Raises where a call fails."""
        ...


class Figure(Enum):
    """What of two turns is compared. The value is how its numbers are shown."""

    CPU = "µs CPU"
    RATE = "calls/s"
    TIME = "ms"

    def of(self, turn: Turn) -> float:
        match self:
            case Figure.CPU:
                return turn.cpu_us
            case Figure.RATE:
                return turn.calls_per_second
            case Figure.TIME:
                return turn.median_ms


@dataclass(frozen=True)
class Effort:
    """How long a row is measured: after a turn of each side that does not count, `rounds` of turns of `seconds`."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Round:
    side: Turn
    beside: Turn


@dataclass(frozen=True)
class Result:
    figure: Figure
    rounds: tuple[Round, ...]

    @property
    def side(self) -> float:
        return statistics.median(self.figure.of(each.side) for each in self.rounds)

    @property
    def beside(self) -> float:
        return statistics.median(self.figure.of(each.beside) for each in self.rounds)

    @property
    def ratios(self) -> list[float]:
        """Of each round, lowest first."""
        return sorted(self.figure.of(each.side) / self.figure.of(each.beside) for each in self.rounds)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def cpu_ratio(self) -> float | None:
        """Of the CPU times of a call; None where they are not measured."""
        if not all(each.beside.cpu_seconds for each in self.rounds):
            return None
        return statistics.median(each.side.cpu_us / each.beside.cpu_us for each in self.rounds)


@dataclass(frozen=True)
class Goal:
    """What to reach: at most so much, or at least, of the ratio, or of the side's own figure where it is `absolute`."""

    value: float
    at_most: bool = True
    absolute: bool = False

    def reached(self, result: Result) -> bool:
        found = result.side if self.absolute else result.ratio
        return found <= self.value if self.at_most else found >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:,g}"


def compare(
    side: Side, beside: Side, figure: Figure, callers: int, effort: Effort, progress: Callable[[str], None]
) -> Result:
    for each in (side, beside):
        each.turn(callers, effort.seconds / 2)
    rounds = []
    for number in range(effort.rounds):
        done = Round(side.turn(callers, effort.seconds), beside.turn(callers, effort.seconds))
        rounds.append(done)
        ours, theirs = figure.of(done.side), figure.of(done.beside)
        progress(f"round {number + 1} of {effort.rounds}: {ours:,.4g} beside {theirs:,.4g} {figure.value}")
    return Result(figure, tuple(rounds))
