"""What one write sees and changes, in one local transaction (rules 1, 2, 8 and 13)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.ids import new_etag
from handfast.server.transactions.core import conflicts, unique_keys
from handfast.server.transactions.core.model import Part, Read, ResourceName
from handfast.server.transactions.participant.resource_rows import ResourceRow, Saved
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.store import Store


class Blocked(Exception):
    """Another transaction has a pending change or a read lock of what a write needs. The local transaction is rolled
    back.
    """

    def __init__(self, what: str, transaction_id: str) -> None:
        self.what, self.transaction_id = what, transaction_id


@dataclass(slots=True)
class _Touched:
    """A resource that the work has seen, and what it makes of it. `values_before` are its unique values."""

    type: ResourceType[Any]
    row: ResourceRow[Any]
    now: Any
    values_before: frozenset[str]
    is_changed: bool = False


class UnitOfWork:
    """The resources of a service, as one write sees and changes them: all that it does is done, or nothing. Whatever it
    has looked at is locked, and nobody else changes it before the write is done; where the write is staged, before its
    transaction is decided.

    On PostgreSQL, two writes that look at the same resources in another order can wait for each other, which costs one
    of them a second; `lock` beforehand what is known to be needed.
    """

    def __init__(
        self,
        store: Store,
        connection: sa.Connection,
        transaction_id: str | None = None,
        on_horizon: Callable[[str], object] | None = None,
    ) -> None:
        """`transaction_id` is the transaction for which the work is staged; None for a plain write. `on_horizon` is
        called once with the horizon of the database, which comes with the first resource, and may refuse by raising.
        """
        self._store, self._connection = store, connection
        self._transaction_id, self._on_horizon = transaction_id, on_horizon
        self._touched: dict[ResourceName, _Touched] = {}

    def get(self, type_: ResourceType[M], key: str) -> M | None:
        """The resource, with what this work and its transaction have made of it; None where there is none."""
        now: M | None = self._touch(type_, key).now
        return now

    def put(self, type_: ResourceType[M], key: str, message: M) -> None:
        """Makes the resource what `message` says, whether there is one or not."""
        self._change(type_, key, message)

    def delete(self, type_: ResourceType[M], key: str) -> None:
        """Removes the resource, if there is one."""
        self._change(type_, key, None)

    def lock(self, type_: ResourceType[M], keys: Collection[str]) -> None:
        """Looks at all of these at once, in an order in which no two writes wait for each other in a circle."""
        self.check_horizon()
        for key, row in self._store.rows_of(type_).lock_all(self._connection, keys).items():
            if ResourceName(type_.kind, key) not in self._touched:
                self._note(type_, row)

    def revision(self, type_: ResourceType[M], key: str) -> str:
        """The revision of the committed resource; NO_REVISION where there is none."""
        return self._touch(type_, key).row.revision

    def _touch(self, type_: ResourceType[M], key: str) -> _Touched:
        touched = self._touched.get(ResourceName(type_.kind, key))
        if touched is None:
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
        now = row.committed
        if pending is not None:
            now = type_.decoded(self._store.operations.last_image(self._connection, pending, row.name))
        values = type_.unique_values(now) if type_.has_unique_values and now is not None else frozenset[str]()
        touched = self._touched[row.name] = _Touched(type_, row, now, values)
        return touched

    def _change(self, type_: ResourceType[M], key: str, after: M | None) -> None:
        touched = self._touch(type_, key)
        if not touched.is_changed:
            other = conflicts.lock_blocker(self._lock_holders(touched.row), self._transaction_id)
            if other is not None:
                raise Blocked(str(touched.row.name), other)
        touched.now, touched.is_changed = after, True

    def _lock_holders(self, row: ResourceRow[Any]) -> list[str]:
        return self._store.operations.lock_holders(self._connection, row.name) if row.read_locks else []

    # What follows is done with the work, once it is complete.

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
        for kind, touched in self._by_kind():
            rows = self._store.rows[kind]
            changed = [each for each in touched if each.is_changed]
            rows.save(
                self._connection,
                [Saved(t.row.name.key, t.now, t.row.last_transaction_id, new_etag()) for t in changed],
            )
            if len(changed) < len(touched):
                absent = [t.row.name.key for t in touched if not t.is_changed and t.row.committed is None]
                rows.drop_placeholders(self._connection, absent)
        self._store.unique_keys.save(self._connection, holders)

    def stage(self, number: int) -> list[Part]:
        """Marks what a staged write is about to change, and locks what it has only looked at. Returns the parts of the
        operation of this number, of which there is at least one.
        """
        mine = str(self._transaction_id)
        self._store.unique_keys.change(self._connection, mine, number, self._claim())
        parts: list[Part] = []
        for kind, touched in self._by_kind():
            rows = self._store.rows[kind]
            changed = [each for each in touched if each.is_changed]
            for each in changed:
                image = None if each.now is None else each.now.SerializeToString()
                parts.append(Part(number, each.row.name, image))
            marked = [each.row.name.key for each in changed if each.row.pending_transaction_id is None]
            rows.mark(self._connection, marked, mine)
            seen = [each.row for each in touched if not each.is_changed and each.row.pending_transaction_id is None]
            locked = [row.name for row in seen if mine not in self._lock_holders(row)]
            parts.extend(Part(number, name, None, is_lock=True) for name in locked)
            rows.add_read_locks(self._connection, [name.key for name in locked])
        return parts or [Part(number, None, None)]

    def reads(self) -> Iterable[Read]:
        """What the work has looked at, all of which is held once it is staged."""
        return (Read(name, touched.row.revision, held=True) for name, touched in self._touched.items())

    def _by_kind(self) -> Iterator[tuple[str, list[_Touched]]]:
        in_order = sorted(self._touched.values(), key=lambda touched: touched.row.name)
        for kind, touched in groupby(in_order, key=lambda touched: touched.row.name.kind):
            yield kind, list(touched)

    def _claim(self) -> dict[str, str | None]:
        """Locks the unique values that the work gives resources or takes away from them. Returns who holds each
        afterwards; None frees it.
        """
        store, mine = self._store, self._transaction_id
        wanted: dict[ResourceType[Any], dict[str, frozenset[str]]] = {}
        changing: dict[ResourceType[Any], set[str]] = {}
        for name, touched in self._touched.items():
            if touched.is_changed and touched.type.has_unique_values:
                now = frozenset[str]() if touched.now is None else touched.type.unique_values(touched.now)
                wanted.setdefault(touched.type, {})[name.key] = now
                changing.setdefault(touched.type, set()).update(now ^ touched.values_before)
        values = [value for of_type in changing.values() for value in of_type]
        locked = store.unique_keys.lock(self._connection, values, mine) if values else []
        holders: dict[str, str | None] = {}
        for type_, of_type in changing.items():
            match unique_keys.claim(wanted[type_], [key for key in locked if key.value in of_type], mine):
                case unique_keys.Pending(transaction_id):
                    name = ResourceName(type_.kind, min(wanted[type_]))
                    raise Blocked(f"A unique value of {name}", transaction_id)
                case unique_keys.Taken(value):
                    raise type_.taken(value)
                case of_these:
                    holders |= of_these
        return holders
