"""A connection of psycopg that is given up where the server does not answer.

Where a server is paused its kernel goes on to confirm what it receives, so TCP finds nothing wrong, and who waits would
wait until it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.waiting import Ready, Wait

Result = TypeVar("Result")
Waiting = Generator[Wait, Ready | int, Result]
"""What libpq has to wait for before it goes on, as psycopg has it."""

ANSWER_TIMEOUT_S = 30.0


class NoAnswer(psycopg.OperationalError):
    """The server does not answer. What it was asked to do may be done."""


class AnsweringConnection(psycopg.Connection[Any]):
    """Raises NoAnswer where an answer takes longer than `answer_timeout_s`, and is closed then. With `ask` it goes on
    to wait, for as long again, unless that raises."""

    answer_timeout_s = ANSWER_TIMEOUT_S
    given_up = False
    """Whether it was shut down in a commit, as nobody waits for the answer any more."""
    is_shut_down = False
    """Whether it was shut down at all, of which its own state tells nothing until it is used."""
    ask: Callable[[], object] | None = None

    def wait(self, gen: Waiting[Result], *args: Any, **options: Any) -> Result:
        """For whatever psycopg waits for."""
        return super().wait(self._at_most(self.answer_timeout_s, gen), *args, **options)

    def wait_at_most(self, seconds: float, gen: Waiting[Result]) -> Result:
        return super().wait(self._at_most(seconds, gen))

    def _at_most(self, seconds: float, gen: Waiting[Result]) -> Waiting[Result]:
        give_up_at = time.monotonic() + seconds
        try:
            wait = next(gen)
            while True:
                ready = yield wait
                if not ready and time.monotonic() > give_up_at:  # psycopg comes by ten times a second
                    self._has_to_answer()
                    give_up_at = time.monotonic() + seconds
                wait = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
        except psycopg.OperationalError as lost:
            if self.given_up:
                raise NoAnswer("the server had not answered when nobody waited for it any more") from lost
            raise

    def _has_to_answer(self) -> None:
        try:
            if self.ask is None:
                raise TimeoutError
            self.ask()
        except Exception as error:
            self.pgconn.finish()  # or a ROLLBACK would wait as long once more
            raise NoAnswer("the server does not answer") from error
