"""When a transaction is run again, and after what pause: what `Suite.transact` goes by."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import TypeVar

from handfast.client.errors import OutcomeUnknown, ServiceError, Unavailable
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.journal import Journal

FIRST_PAUSE = 0.02
"""Seconds before the second attempt, at the most; before each further one twice as long, up to the longest."""
LONGEST_PAUSE = 1.0

READS_UNLOCKED = 2
"""How many attempts lock only in the end what they have read. Those after that lock it at once, which takes longer."""


Result = TypeVar("Result")


def check_result(result: Result) -> Result:
    """What a function gave that was called with a transaction. Raises TransactionMisuse where it has not run at all."""
    if isinstance(result, Coroutine | Generator):
        result.close()
    elif not isinstance(result, AsyncGenerator):
        return result
    raise TransactionMisuse(
        "transact calls the function, which gave a coroutine or a generator and has not run. "
        "Coroutine functions are for the transact of handfast.client.aio."
    )


class Reruns:
    """The attempts of one call of `transact`, which has `timeout` seconds for all of them."""

    def __init__(self, timeout: float) -> None:
        self._attempts = 0
        self._journal = Journal(timeout)

    def next(self) -> Journal:
        """For the next attempt. It keeps the age of the first, so that others make way for it at last."""
        self._attempts += 1
        if self._attempts > 1:
            self._journal = self._journal.again()
            # Others give way, for its age, to what it has written or locked; to what it has only read they do not.
            self._journal.locks_at_once = self._attempts > READS_UNLOCKED
        return self._journal

    def pause(self, error: BaseException) -> float | None:
        """The seconds to wait before the next attempt, after one that ended by `error`; None where that stands.

        Only what a call of the transaction was told, or its end, is a reason: all else the function raised by itself.
        Of a group, such as asyncio.TaskGroup raises, each has to be one.
        The pauses grow, and none is like another ("full jitter",
        https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter).
        """
        if isinstance(error, ExceptionGroup):
            pauses = [pause for each in error.exceptions if (pause := self.pause(each)) is not None]
            return max(pauses) if len(pauses) == len(error.exceptions) else None
        if not (isinstance(error, ServiceError) and self._journal.is_own(error)) or isinstance(error, OutcomeUnknown):
            return None
        if not (error.retryable or isinstance(error, Unavailable)):
            return None
        # Where something that was read has changed, whoever was faster is done, so there is nothing to wait for.
        growth = 1 if error.reason == "READ_CHANGED" else 2 ** min(self._attempts - 1, 10)
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * growth)
        pause = (error.retry_after or 0.0) + random.uniform(0, longest)
        return pause if time.monotonic() + pause < self._journal.deadline_s else None
