"""The order in which the calls of a transaction go out to one participant."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from handfast.client.transactions.methods import Part


class _Call(Protocol):
    part: Part


Call = TypeVar("Call", bound=_Call)


class Queue(Generic[Call]):
    """Calls go out in the order in which they were made, one after the other, but for reads beside each other."""

    def __init__(self) -> None:
        self._under_way: dict[Call, None] = {}
        """Either one write, or reads."""
        self._waiting: deque[Call] = deque()

    def put(self, call: Call) -> None:
        self._waiting.append(call)

    def next(self) -> Call | None:
        """The next call whose turn has come, which is under way from now on."""
        if not self._waiting:
            return None
        under_way = self.first()
        if under_way is not None and Part.WRITE in (under_way.part, self._waiting[0].part):
            return None
        call = self._waiting.popleft()
        self._under_way[call] = None
        return call

    def first(self) -> Call | None:
        """The first of those under way."""
        return next(iter(self._under_way), None)

    def over(self, call: Call) -> None:
        """It was answered, or will not be sent any more."""
        if call in self._under_way:
            del self._under_way[call]
        else:
            self._waiting.remove(call)

    def not_over(self) -> list[Call]:
        """In the order in which they were made."""
        return [*self._under_way, *self._waiting]
