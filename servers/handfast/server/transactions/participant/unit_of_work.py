"""What one write sees and changes, in one local transaction (rules 1, 2, 8 and 13)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.ids import new_etag
from handfast.server.transactions.core import conflicts, unique_keys
from handfast.server.transactions.core.model import Part, Read, ResourceName, UniqueKey
from handfast.server.transactions.participant.errors import PendingChange
from handfast.server.transactions.participant.resource_rows import ResourceRow, Saved
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.store import Store


class Blocked(Exception):
    """Another transaction has a pending change or a read lock of what a write needs. The local transaction is rolled
    back. `what` is told to callers; `waits_for` names it to others that need it, by default as callers are told.
    """

    def __init__(self, what: str, transaction_id: str, waits_for: str = "") -> None:
        self.what, self.transaction_id, self.waits_for = what, transaction_id, waits_for or what


@dataclass(slots=True)
class _Touched:
    """A resource that the work has seen, and what it makes of it. `values_before` are its unique values."""

    row: ResourceRow[Any]
    now: Any
    values_before: frozenset[str]
    is_changed: bool = False


class UnitOfWork:
    """The resources of a service, as one write sees and changes them: all that it does is done, or nothing. Whatever it
    has looked at is locked, and nobody else changes it before the write is done; where the write is staged, before its
    transaction is decided.

    On PostgreSQL, two writes that look at the same resources in another order can wait for each other, which costs one
    of them a second. It runs again, and then locks first, in order, what it had looked at. `lock` beforehand what is
    known to be needed.
    """

    def __init__(
        self,
        store: Store,
        connection: sa.Connection,
        transaction_id: str | None = None,
        on_horizon: Callable[[str], object] | None = None,
        older_waiter: Callable[[str], str | None] | None = None,
        seen: list[tuple[str, str]] | None = None,
    ) -> None:
        """`transaction_id` is the transaction for which the work is staged; None for a plain write. `on_horizon` is
        called once with the horizon of the database, which comes with the first resource, and may refuse by raising.
        `older_waiter` tells which older transaction waits for a resource; the work makes way for it. `seen` has the
        kinds and keys of what earlier runs of the work have looked at, which the database ended; this run adds its own.
        """
        self._store, self._connection = store, connection
        self._transaction_id, self._on_horizon, self._older_waiter = transaction_id, on_horizon, older_waiter
        self._has_ended = False
        self._touched: dict[str, dict[str, _Touched]] = {each: {} for each in store.types}  # by kind and key
        self._seen: list[tuple[str, str]] = [] if seen is None else seen
        if self._seen:
            self._lock_seen()

    def get(self, type_: ResourceType[M], key: str) -> M | None:
        """The resource, with what this work and its transaction have made of it; None where there is none. A key that
        none can have is refused by InvalidValue, here as below.
        """
        now: M | None = self._touch(type_, key).now
        return now

    def put(self, type_: ResourceType[M], key: str, message: M) -> None:
        """Makes the resource what `message` says, whether there is one or not. What its columns cannot hold is
        refused by InvalidValue once the work is complete. Raises TypeError where it is a message of another type.
        """
        type_.require(message)
        self._change(type_, key, message)

    def delete(self, type_: ResourceType[M], key: str) -> None:
        """Removes the resource, if there is one."""
        self._change(type_, key, None)

    def lock(self, type_: ResourceType[M], keys: Collection[str]) -> None:
        """Looks at all of these at once, in an order in which no two writes wait for each other in a circle."""
        self._require_open()
        for key in keys:
            type_.require_key(key)
        self.check_horizon()
        self._seen.extend((type_.kind, key) for key in keys)
        for key, row in self._store.rows_of(type_).lock_all(self._connection, keys).items():
            if key not in self._touched[type_.kind]:
                self._note(type_, row)

    def lock_to_change(self, type_: ResourceType[M], key: str) -> None:
        """Keeps others from locking it, too, as if it were changed already."""
        self._change(type_, key, self._touch(type_, key).now)

    def _lock_seen(self) -> None:
        """Locks what earlier runs have looked at, in the order of `lock`, kind by kind."""
        for kind, seen in groupby(sorted(set(self._seen)), key=itemgetter(0)):
            self.lock(self._store.types[kind], [key for _, key in seen])

    def revision(self, type_: ResourceType[M], key: str) -> str:
        """The revision of the committed resource; NO_REVISION where there is none."""
        return self._touch(type_, key).row.revision

    def _touch(self, type_: ResourceType[M], key: str) -> _Touched:
        self._require_open()
        touched = self._touched[type_.kind].get(key)
        if touched is None:
            type_.require_key(key)
            self._seen.append((type_.kind, key))
            with_horizon = self._on_horizon is not None
            row = self._store.rows_of(type_).lock(self._connection, key, with_horizon=with_horizon)
            if with_horizon:
                self._horizon_is(row.horizon)
            touched = self._note(type_, row)
        return touched

    def _note(self, type_: ResourceType[M], row: ResourceRow[M]) -> _Touched:
        mine, pending = self._transaction_id, row.pending_transaction_id
        if (other := conflicts.blocker(pending, mine)) is not None:
            raise Blocked(str(row.name), other)
        if self._older_waiter is not None and pending is None:
            older = self._older_waiter(str(row.name))
            if older is not None and mine not in self._lock_holders(row):
                raise PendingChange(str(row.name), older, is_waiting=True)
        now = row.committed
        if pending is not None:
            now = type_.decoded(self._store.operations.last_image(self._connection, pending, row.name))
        touched = _Touched(row, now, _unique_values(type_, now))
        self._touched[type_.kind][row.name.key] = touched
        return touched

    def _change(self, type_: ResourceType[M], key: str, after: M | None) -> None:
        touched = self._touch(type_, key)
        if touched.row.read_locks and not touched.is_changed:
            other = conflicts.lock_blocker(self._lock_holders(touched.row), self._transaction_id)
            if other is not None:
                raise Blocked(str(touched.row.name), other)
        touched.now, touched.is_changed = after, True

    def _lock_holders(self, row: ResourceRow[Any]) -> list[str]:
        return self._store.operations.lock_holders(self._connection, row.name) if row.read_locks else []

    def _require_open(self) -> None:
        if self._has_ended:
            raise RuntimeError("the unit of work has ended: it is for use within the function that it was given to")

    # What follows is done with the work, once it is complete.

    def end(self) -> None:
        """Refuses all further use by the work: it would have no effect. That raises RuntimeError."""
        self._has_ended = True

    def check_horizon(self) -> None:
        """For a work that has looked at nothing, of which the horizon has come with nothing."""
        if self._on_horizon is not None:
            self._horizon_is(self._store.branches.horizon(self._connection))

    def _horizon_is(self, horizon: str) -> None:
        on_horizon, self._on_horizon = self._on_horizon, None
        if on_horizon is not None:
            on_horizon(horizon)

    def apply(self) -> None:
        """Does all that a plain write has come to."""
        holders = self._claim()
        for kind, touched in self._touched.items():
            type_ = self._store.types[kind]
            changed, absent = [], []
            for key, each in touched.items():
                if each.is_changed:
                    columns = None if each.now is None else type_.stored(key, each.now)
                    changed.append(Saved(key, columns, each.row.last_transaction_id, new_etag()))
                elif each.row.committed is None:
                    absent.append(key)
            self._store.rows[kind].save(self._connection, changed)
            if absent:
                self._store.rows[kind].drop_placeholders(self._connection, absent)
        self._store.unique_keys.save(self._connection, holders)

    def about(self) -> str | None:
        """The resource that the work has changed, if it is one."""
        changed = [
            str(each.row.name) for touched in self._touched.values() for each in touched.values() if each.is_changed
        ]
        return changed[0] if len(changed) == 1 else None

    def erases(self) -> list[str]:
        """The resources of which nothing personal is left."""
        return [
            str(each.row.name)
            for kind, touched in self._touched.items()
            for each in touched.values()
            if each.is_changed and self._store.types[kind].is_erased(each.now)
        ]

    def stage(self, number: int) -> list[Part]:
        """Marks what a staged write is about to change, and locks what it has only looked at. Returns the parts of the
        operation of this number, of which there is at least one.
        """
        mine = str(self._transaction_id)
        self._store.unique_keys.change(self._connection, mine, number, self._claim())
        parts: list[Part] = []
        for kind, touched in self._touched.items():
            type_ = self._store.types[kind]
            marked, locked = [], []
            for key, each in touched.items():
                is_marked = each.row.pending_transaction_id is not None
                if each.is_changed:
                    image = None
                    if each.now is not None:
                        type_.stored(key, each.now)  # refuses what could not be applied later
                        image = each.now.SerializeToString()
                    parts.append(Part(number, each.row.name, image))
                    if not is_marked:
                        marked.append(key)
                elif not is_marked and mine not in self._lock_holders(each.row):
                    parts.append(Part(number, each.row.name, None, is_lock=True))
                    locked.append(key)
            self._store.rows[kind].mark(self._connection, marked, mine)
            if locked:
                self._store.rows[kind].add_read_locks(self._connection, locked)
        return parts or [Part(number, None, None)]

    def reads(self) -> list[Read]:
        """What the work has looked at, all of which is held once it is staged."""
        rows = [each.row for touched in self._touched.values() for each in touched.values()]
        return [Read(row.name, row.revision, held=True) for row in rows]

    def _claim(self) -> dict[str, str | None]:
        """Locks the unique values that the work gives resources or takes away from them. Returns who holds each
        afterwards; None frees it.
        """
        store, mine = self._store, self._transaction_id
        wanted: dict[str, dict[str, frozenset[str]]] = {}
        changing: dict[str, set[str]] = {}
        for kind, touched in self._touched.items():
            for key, each in touched.items():
                if each.is_changed:
                    values = _unique_values(store.types[kind], each.now)
                    wanted.setdefault(kind, {})[key] = values
                    if values != each.values_before:
                        for value in values:
                            store.types[kind].require_unique_value(value)
                        changing.setdefault(kind, set()).update(values ^ each.values_before)
        if not changing:
            return {}
        locked = store.unique_keys.lock(self._connection, set().union(*changing.values()), mine)
        holders: dict[str, str | None] = {}
        for kind, of_kind in changing.items():
            what = f"unique value of {ResourceName(kind, min(wanted[kind]))}"
            keys = [key for key in locked if key.value in of_kind]
            match unique_keys.claim(wanted[kind], keys, mine):
                case unique_keys.Pending(transaction_id):
                    raise Blocked(f"A {what}", transaction_id, waits_for=_to_be_claimed(locked[-1]))
                case unique_keys.Taken(value):
                    raise store.types[kind].taken(value)
                case of_these:
                    holders |= of_these
            if self._older_waiter is not None:
                for unique in keys:
                    older = (
                        self._older_waiter(_to_be_claimed(unique)) if unique.pending_transaction_id is None else None
                    )
                    if older is not None:
                        raise PendingChange(f"a {what}", older, is_waiting=True)
        return holders


def _to_be_claimed(key: UniqueKey) -> str:
    """What who waits for a unique value waits for. No resource has such a name."""
    return f"unique value {key.value}"


def _unique_values(type_: ResourceType[M], message: M | None) -> frozenset[str]:
    return frozenset() if message is None else type_.unique_values(message)
