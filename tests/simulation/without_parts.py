"""The rules of writes that change several resources, left out as those in `without.py` are: all parts or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from handfast.server.transactions.core import finishing as finishing_rules
from handfast.server.transactions.core import unique_keys
from handfast.server.transactions.core.model import Part, Read, ResourceName
from handfast.server.transactions.participant import read_set
from handfast.server.transactions.participant.lock_service import LockServicer
from handfast.server.transactions.participant.resource_rows import ResourceRows
from handfast.server.transactions.participant.unit_of_work import UnitOfWork
from tests.simulation.world import Without

# All parts are applied, and the last of each resource counts.

_apply, _final_images = UnitOfWork.apply, finishing_rules.final_images


def _apply_the_first_kind(self: UnitOfWork) -> None:
    for kind in list(self._touched)[1:]:
        self._touched[kind].clear()
    _apply(self)


def _all_images_but_one(parts: Sequence[Part], committed_count: int) -> dict[ResourceName, bytes | None]:
    images = _final_images(parts, committed_count)
    if len(images) > 1:
        images.popitem()
    return images


def _first_images(parts: Sequence[Part], committed_count: int) -> dict[ResourceName, bytes | None]:
    """As if the operations were applied in the opposite order."""
    images = _final_images(parts, committed_count)
    for number in range(committed_count, 0, -1):
        images |= _final_images([part for part in parts if part.number == number], committed_count)
    return images


# All that a write changes is marked as its own.

_mark = ResourceRows.mark


def _mark_one(self: ResourceRows[Any], connection: Any, keys: Iterable[str], transaction_id: str) -> None:
    _mark(self, connection, sorted(keys)[:1], transaction_id)


# What one resource gives up another may take.

_claim = unique_keys.claim


def _claim_one_by_one(wanted: Any, changing: Any, mine: str | None) -> Any:
    holders: dict[str, str | None] = {}
    for key, values in wanted.items():
        claimed = _claim({key: values}, changing, mine)
        if not isinstance(claimed, dict):
            return claimed
        holders |= claimed
    return holders


# Callers are told all that a call has read, and lock or compare all of that.

_record, _checked = read_set.record, LockServicer._checked


def _record_the_first_read(reads: Iterable[Read]) -> None:
    _record(list(reads)[:1])


def _check_the_first_read(self: LockServicer, asked: Iterable[Any]) -> list[Read]:
    return _checked(self, list(asked)[:1])


def _of(owner: Any, name: str, value: Any) -> Without:
    return Without("moves", patches=((owner, name, value),))


WITHOUT_PARTS: dict[str, Without] = {
    "all parts of a plain write": _of(UnitOfWork, "apply", _apply_the_first_kind),
    "all parts of a committed write": _of(finishing_rules, "final_images", _all_images_but_one),
    "parts in the order of their operations": _of(finishing_rules, "final_images", _first_images),
    "row locks of one kind": Without("moves", locks=frozenset({"accounts"})),
    "marks of all that a write changes": _of(ResourceRows, "mark", _mark_one),
    "values that are swapped in one write": _of(unique_keys, "claim", _claim_one_by_one),
    "read sets of all that a call reads": _of(read_set, "record", _record_the_first_read),
    "locks of all that was read": _of(LockServicer, "_checked", _check_the_first_read),
}
