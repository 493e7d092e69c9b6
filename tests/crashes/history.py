"""What clients saw, and whether a suite that keeps its promises could have shown them that.

A history is a list of events. An event is one operation of one client, as a transaction over registers: a call on its
own, or several that were committed together. A register is one thing with a value, such as `joint/ada`. All of them
have to be strictly serializable (`tests/serializability`), which says of each register that it is linearizable: a value
that was acknowledged and lost, or that comes back, shows as a read of an older one. So no other check is needed for
that, provided that all registers are read once more at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.serializability import checker
from tests.serializability.checker import Anomaly
from tests.serializability.history import Initial, Outcome, Transaction, Write


@dataclass(frozen=True, slots=True, eq=False)
class Event(Transaction):
    """`apart` says that its reads need not be of the same moment; `etags` has the contents that this event saw, by
    resource and etag; `replaces` are the etags that a write asked for and replaced; `faults` is what the client itself
    found wrong with a reply.
    """

    apart: bool = False
    etags: Mapping[str, str] = field(default_factory=dict)
    replaces: Sequence[str] = ()
    faults: Sequence[str] = ()
    note: str = ""

    @property
    def acknowledges_a_write(self) -> bool:
        return self.outcome is Outcome.COMMITTED and any(isinstance(each, Write) for each in self.operations)

    def __str__(self) -> str:
        return f"{Transaction.__str__(self)} {self.note}"


def check(history: Sequence[Event], initial: Initial) -> list[Anomaly]:
    """All that is wrong with a history. `initial` says the value of a register before it began."""
    transactions = [transaction for event in history for transaction in _transactions(event)]
    return [
        *(_violation(fault, event) for event in history for fault in event.faults),
        *_etags(history),
        *_replaced(history),
        *checker.check(transactions, initial),
    ]


def save(history: Iterable[Event], file: Path) -> None:
    """Writes one line of JSON for each event."""
    with file.open("w") as lines:
        for event in history:
            shown = {"outcome": event.outcome.name, "operations": [*map(str, event.operations)]}
            print(json.dumps({**asdict(event), **shown}), file=lines)


def _transactions(event: Event) -> Iterator[Transaction]:
    if event.apart:
        yield from (replace(event, operations=(operation,)) for operation in event.operations)
    else:
        yield event


def _etags(history: Iterable[Event]) -> Iterator[Anomaly]:
    """An etag stands for one state of a resource."""
    seen: dict[str, tuple[str, Event]] = {}
    for event in history:
        for etag, content in event.etags.items():
            first, by = seen.setdefault(etag, (content, event))
            if first != content:
                yield _violation(f"etag {etag} stands for two states: {first}, {content}", by, event)


def _replaced(history: Iterable[Event]) -> Iterator[Anomaly]:
    """What is written only if nobody else did meanwhile, is written once."""
    replaced: dict[str, Event] = {}
    for event in history:
        for etag in event.replaces if event.outcome is Outcome.COMMITTED else ():
            first = replaced.setdefault(etag, event)
            if first is not event:
                yield _violation(f"etag {etag} was replaced twice", first, event)


def _violation(what: str, *events: Event) -> Anomaly:
    return Anomaly(what, events, tuple(map(str, events)))
