"""The servers' stores upon the database in memory: the same classes, each SQL statement replaced by what it does.

Everything else of these classes is the servers' own code: which statements, in which order, under which locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from handfast.server.chassis.clock import Clock
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.transactions.coordinator.decision_store import MOST_KNOWN, DecisionStore, RecentIds
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.core import coordinator as coordinator_rules
from handfast.server.transactions.core.model import BranchState
from handfast.server.transactions.horizon import Prunable
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.operations import CHANGE_COLUMNS, Operations
from handfast.server.transactions.participant.resource_rows import ResourceRows
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.unique_keys import UniqueKeys
from tests.simulation.engine import (
    Columns,
    Connection,
    DriverError,
    Engine,
    Result,
    SimulatedDatabase,
    Statement,
    failure,
)

UNIQUE_VIOLATION = "23505"
FINISHED = BranchState.FINISHED.value


def _one(row: Columns | None) -> Result:
    return Result() if row is None else Result([row])


def _select(table: str, parameter: str) -> Statement:
    return Statement(lambda c, p: _one(c.get(table, p[parameter])))


def _select_for_update(table: str, parameter: str) -> Statement:
    def select(c: Connection, p: Columns) -> Result:
        if c.get(table, p[parameter]) is None:
            return Result()
        c.lock(table, p[parameter])
        return _one(c.get(table, p[parameter]))

    return Statement(select)


def _select_all_for_update(table: str, parameter: str) -> Statement:
    def select(c: Connection, p: Columns) -> Result:
        known = [each for each in sorted(p[parameter]) if c.get(table, each) is not None]
        for each in known:
            c.lock(table, each)
        rows = [c.get(table, each) for each in known]
        return Result(row for row in rows if row is not None)

    return Statement(select)


def _insert_new(table: str, key: str, defaults: Columns) -> Statement:
    return Statement(lambda c, p: Result(rowcount=int(c.insert(table, p[key], {**defaults, **p}))))


def _update(table: str, parameter: str) -> Statement:
    return Statement(lambda c, p: Result(rowcount=c.update(table, p[parameter], p)))


def _delete(table: str, parameter: str) -> Statement:
    return Statement(lambda c, p: Result(rowcount=c.delete(table, p[parameter])))


def _smallest(rows: Iterable[Columns], after: str, limit: int) -> Result:
    later = sorted((row for row in rows if row["transaction_id"] > after), key=lambda row: str(row["transaction_id"]))
    return Result(later[:limit])


def _oldest(rows: Iterable[Columns]) -> Result:
    return Result([{"min": min((row["transaction_id"] for row in rows), default=None)}])


def newest_below(rows: Iterable[Columns], below: str) -> Result:
    newest = max((row["transaction_id"] for row in rows if row["transaction_id"] < below), default=None)
    return Result([{"transaction_id": newest}] if newest else [])


def _defaults(table: sa.Table) -> Columns:
    """What the columns of a new row hold."""

    def default(column: sa.Column[Any]) -> Any:
        if column.default is None:
            return None
        return column.default.arg if column.default.is_scalar else {}  # type: ignore[attr-defined]

    return {column.name: default(column) for column in table.columns}


class SimulatedPrunable(Prunable):
    def __init__(self, engine: Engine) -> None:
        self.database = SimulatedDatabase(engine)
        engine.tables.setdefault("horizon", {0: {"transaction_id": ""}})

        def lock(c: Connection, p: Columns) -> Result:
            c.lock("horizon", 0)
            return _one(c.get("horizon", 0))

        self._select_horizon: Any = Statement(lambda c, p: _one(c.get("horizon", 0)))
        self._lock_horizon: Any = Statement(lock)
        self._advance_horizon: Any = Statement(lambda c, p: Result(rowcount=c.update("horizon", 0, p)))


class SimulatedRows(ResourceRows[M]):
    def __init__(self, engine: Engine, resources: ResourceType[M]) -> None:
        table, key = resources.kind, resources.key.name
        engine.tables.setdefault(table, {})
        self._resources, self._key_name = resources, key

        def joined(c: Connection, rows: Iterable[Columns | None]) -> Result:
            """Rows, each with the changes of the transaction that has a pending change of it."""
            return Result(
                each for row in rows if row is not None for each in with_changes(row, changes_of(c, table, row, key))
            )

        def page(is_first: Callable[[str, Columns], bool]) -> Statement:
            def select(c: Connection, p: Columns) -> Result:
                within = (row for row in c.scan(table) if is_first(row[key], p) and row[key] < p["beyond"])
                return joined(c, sorted(within, key=lambda row: str(row[key]))[: p["limit_"]])

            return Statement(select)

        def lock_with_horizon(c: Connection, p: Columns) -> Result:
            horizon = c.get("horizon", 0)  # as it is before the statement waits for the lock
            assert horizon is not None
            if c.get(table, p["key_"]) is not None:
                c.lock(table, p["key_"])
            row = c.get(table, p["key_"])
            return _one(None if row is None else {**row, "horizon": horizon["transaction_id"]})

        def add_to_read_locks(count: int) -> Statement:
            def add(c: Connection, p: Columns) -> Result:
                c.lock(table, p["key_"])
                row = c.get(table, p["key_"])
                locks = 0 if row is None else row["read_locks"] + count
                return Result(rowcount=c.update(table, p["key_"], {"read_locks": locks}))

            return Statement(add)

        def is_needless(row: Columns) -> bool:
            return not (row["present"] or row["pending_transaction_id"] or row["read_locks"])

        self._find: Any = Statement(lambda c, p: joined(c, [c.get(table, p["key_"])]))
        self._batch: Any = Statement(lambda c, p: joined(c, [c.get(table, each) for each in p["keys"]]))
        self._page: Any = page(lambda key, p: key > p["after"])
        self._first_page: Any = page(lambda key, p: key >= p["prefix"])
        self._lock: Any = _select_for_update(table, "key_")
        self._lock_known: Any = _select_all_for_update(table, "keys")
        self._lock_with_horizon: Any = Statement(lock_with_horizon)
        self._insert_placeholder: Any = _insert_new(table, key, _defaults(resources.table))
        self._update: Any = _update(table, "key_")
        self._add_read_lock: Any = add_to_read_locks(1)
        self._end_read_lock: Any = add_to_read_locks(-1)
        self._delete: Any = _delete(table, "key_")
        self._delete_placeholder: Any = Statement(lambda c, p: Result(rowcount=c.delete(table, p["key_"], is_needless)))


class SimulatedBranches(SimulatedPrunable, Branches):
    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        engine.tables.setdefault("branches", {})

        def unfinished(c: Connection) -> list[Columns]:
            return [row for row in c.scan("branches") if row["state"] != FINISHED]

        def prune(c: Connection, p: Columns) -> Result:
            def below(row: Columns) -> bool:
                return bool(row["transaction_id"] < p["horizon"] and row["state"] == FINISHED)

            found = [row["transaction_id"] for row in c.scan("branches") if below(row)]
            return Result(rowcount=sum(c.delete("branches", each, below) for each in found))

        self._insert: Any = _insert_new("branches", "transaction_id", {"outcome": None})
        self._find: Any = _select("branches", "id_")
        self._lock: Any = _select_for_update("branches", "id_")
        self._lock_known: Any = _select_all_for_update("branches", "ids")
        self._update: Any = _update("branches", "id_")
        self._update_all: Any = Statement(
            lambda c, p: Result(rowcount=sum(c.update("branches", each, p) for each in p["ids"]))
        )
        self._delete: Any = Statement(
            lambda c, p: Result(rowcount=sum(c.delete("branches", each) for each in p["ids"]))
        )
        self._unfinished: Any = Statement(lambda c, p: _smallest(unfinished(c), p["after"], p["limit_"]))
        self._oldest_unfinished: Any = Statement(lambda c, p: _oldest(unfinished(c)))
        self._newest_finished: Any = Statement(
            lambda c, p: newest_below((row for row in c.scan("branches") if row["state"] == FINISHED), p["horizon"])
        )
        self._delete_finished: Any = Statement(prune)


class SimulatedOperations(Operations):
    def __init__(self, engine: Engine) -> None:
        engine.tables.setdefault("operations", {})

        def columns(rows: Iterable[Columns], *names: str) -> Result:
            return Result({name: row[name] for name in names} for row in rows)

        def first_part(c: Connection, p: Columns) -> list[Columns]:
            row = c.get("operations", (p["id_"], p["number_"], 1))
            return [] if row is None else [row]

        def of_all(c: Connection, p: Columns) -> list[Columns]:
            return [o for each in sorted(p["ids"]) for o in operations_of(c, each)]

        def is_resource(row: Columns, p: Columns) -> bool:
            return bool(row["kind"] == p["kind_"] and row["resource"] == p["resource_"])

        def last_image(c: Connection, p: Columns) -> Result:
            found = [o for o in operations_of(c, p["id_"]) if is_resource(o, p) and not o["is_lock"]]
            return columns(found[-1:], "image")

        def lock_holders(c: Connection, p: Columns) -> Result:
            found = [o for o in c.scan("operations") if is_resource(o, p) and o["is_lock"]]
            return columns(sorted(found, key=lambda row: str(row["transaction_id"])), "transaction_id")

        def sizes(c: Connection, p: Columns) -> Result:
            last = {o["transaction_id"]: o for o in of_all(c, p) if o["part"] == 1}
            return columns(last.values(), "transaction_id", "parts_so_far", "bytes_so_far")

        def insert(c: Connection, p: Columns) -> Result:
            if not c.insert("operations", (p["transaction_id"], p["number"], p["part"]), dict(p)):
                raise failure("duplicate key", UNIQUE_VIOLATION)
            return Result(rowcount=1)

        def delete(c: Connection, p: Columns) -> Result:
            keys = [(o["transaction_id"], o["number"], o["part"]) for o in of_all(c, p)]
            return Result(rowcount=sum(c.delete("operations", key) for key in keys))

        self._find: Any = Statement(lambda c, p: columns(first_part(c, p), "fingerprint", "reply", "reads"))
        self._parts: Any = Statement(
            lambda c, p: columns(of_all(c, p), "transaction_id", "number", "kind", "resource", "image", "is_lock")
        )
        self._last_image: Any = Statement(last_image)
        self._lock_holders: Any = Statement(lock_holders)
        self._size: Any = Statement(lambda c, p: columns(first_part(c, p), "parts_so_far", "bytes_so_far"))
        self._sizes: Any = Statement(sizes)
        self._insert: Any = Statement(insert)
        self._delete: Any = Statement(delete)


class SimulatedUniqueKeys(UniqueKeys):
    def __init__(self, engine: Engine) -> None:
        engine.tables.setdefault("claims", {})
        engine.tables.setdefault("claim_changes", {})

        def changes_of(c: Connection, *transaction_ids: str) -> list[Columns]:
            return [row for row in c.scan("claim_changes") if row["transaction_id"] in transaction_ids]

        def changes_of_value(c: Connection, transaction_id: str, value: str) -> list[Columns]:
            return [
                {name: row[name] for name in ("number", "value", "holder")}
                for row in changes_of(c, transaction_id)
                if row["value"] == value
            ]

        def find(c: Connection, p: Columns) -> Result:
            row = c.get("claims", p["value_"])
            if row is None:
                return Result()
            pending = row["pending_transaction_id"]
            changes = changes_of_value(c, pending, p["value_"]) if pending else []
            none: Columns = {"number": None, "holder": None}
            return Result(
                {**row, "number": change["number"], "next_holder": change["holder"]} for change in changes or [none]
            )

        def changed_by(c: Connection, p: Columns) -> Result:
            values = {row["value"]: None for row in changes_of(c, *p["ids"])}
            found = [row._columns for value in values for row in find(c, {"value_": value})]
            return Result(row for row in found if row["pending_transaction_id"] in p["ids"])

        def insert_change(c: Connection, p: Columns) -> Result:
            inserted = c.insert("claim_changes", (p["transaction_id"], p["value"], p["number"]), dict(p))
            if not inserted:
                raise failure("duplicate key", UNIQUE_VIOLATION)
            return Result(rowcount=1)

        def delete_changes(c: Connection, p: Columns) -> Result:
            keys = [(each["transaction_id"], each["value"], each["number"]) for each in changes_of(c, *p["ids"])]
            return Result(rowcount=sum(c.delete("claim_changes", key) for key in keys))

        self._find: Any = Statement(find)
        self._insert: Any = _insert_new("claims", "value", {"holder": None, "pending_transaction_id": None})
        self._lock: Any = _select_for_update("claims", "value_")
        self._update: Any = _update("claims", "value_")
        self._delete: Any = _delete("claims", "value_")
        self._insert_change: Any = Statement(insert_change)
        self._changed_by: Any = Statement(changed_by)
        self._delete_changes: Any = Statement(delete_changes)


class SimulatedStore(Store):
    def __init__(self, participant: str, engine: Engine, types: Sequence[ResourceType[Any]]) -> None:
        self.participant, self.database = participant, SimulatedDatabase(engine)
        self.types = {each.kind: each for each in types}
        self.rows = {each.kind: SimulatedRows(engine, each) for each in types}
        self.branches, self.operations = SimulatedBranches(engine), SimulatedOperations(engine)
        self.unique_keys = SimulatedUniqueKeys(engine)


def operations_of(c: Connection, transaction_id: str) -> list[Columns]:
    """The parts of its operations, in their order."""
    found = [row for row in c.scan("operations") if row["transaction_id"] == transaction_id]
    return sorted(found, key=lambda row: (int(row["number"]), int(row["part"])))


def changes_of(c: Connection, kind: str, row: Columns, key: str) -> list[Columns]:
    """What the transaction that has a pending change of a row makes of it."""
    if row["pending_transaction_id"] is None:
        return []
    parts = operations_of(c, row["pending_transaction_id"])
    return [part for part in parts if (part["kind"], part["resource"]) == (kind, row[key]) and not part["is_lock"]]


def with_changes(row: Columns, changes: list[Columns]) -> Iterator[Columns]:
    """An outer join."""
    for change in changes or [dict.fromkeys(CHANGE_COLUMNS)]:
        yield {**row, **{name: change[name] for name in CHANGE_COLUMNS}}


class SimulatedRegister(SimulatedPrunable, DecisionStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__(engine)
        engine.tables.setdefault("decisions", {})
        self._clock, self._durable = clock, RecentIds(MOST_KNOWN)
        self.on_decided = lambda row: None
        self.on_finished = lambda outcome, decide_time, finish_time: None
        self.on_loss_accepted = lambda: None

        def found(c: Connection, p: Columns) -> Result:
            rows = [c.get("decisions", id_) for id_ in p["ids"]]
            return Result([row for row in rows if row is not None])

        def unfinished(c: Connection) -> list[Columns]:
            return [row for row in c.scan("decisions") if row["finish_time"] is None]

        def delete(c: Connection, p: Columns) -> Result:
            def below(row: Columns) -> bool:
                return bool(row["transaction_id"] < p["horizon"] and row["finish_time"] is not None)

            found = [row["transaction_id"] for row in c.scan("decisions") if below(row)]
            return Result(rowcount=sum(c.delete("decisions", each, below) for each in found))

        def insert_unless_forgotten(c: Connection, p: Columns) -> Result:
            c.lock("horizon", 0, shared=True)
            horizon = c.get("horizon", 0)
            assert horizon is not None
            if not coordinator_rules.may_insert(p["transaction_id"], horizon["transaction_id"]):
                return Result()
            return insert.does(c, p)

        insert = _insert_new("decisions", "transaction_id", {"loss_accepted": None})
        self._insert: Any = Statement(insert_unless_forgotten)
        self._find: Any = Statement(found)
        self._unfinished: Any = Statement(lambda c, p: _smallest(unfinished(c), p["after"], p["limit_"]))

        def mark_finished(c: Connection, p: Columns) -> Result:
            marked = [row["transaction_id"] for row in unfinished(c) if row["transaction_id"] in p["ids"]]
            for each in marked:
                c.lock("decisions", each)
            marked = [each for each in marked if c.get("decisions", each) in unfinished(c)]
            for each in marked:
                c.update("decisions", each, {"finish_time": p["finish_time"]})
            return found(c, {"ids": marked})

        self._mark_finished: Any = Statement(mark_finished)
        self._lock: Any = _select_for_update("decisions", "id_")
        self._accept_loss: Any = _update("decisions", "id_")
        self._oldest_unfinished: Any = Statement(lambda c, p: _oldest(unfinished(c)))
        self._newest_finished: Any = Statement(
            lambda c, p: newest_below(
                (row for row in c.scan("decisions") if row["finish_time"] is not None), p["horizon"]
            )
        )
        self._delete_finished: Any = Statement(delete)


class SimulatedAnswerRows:
    """Stands for `Answers`: the rows of a table of answers, all of which are anybody's."""

    def __init__(self, engine: Engine, table: str) -> None:
        engine.tables.setdefault(table, {})

        def insert(c: Connection, p: Columns) -> Result:
            if not c.insert(table, (p["method"], p["request_id"]), dict(p)):
                raise IntegrityError("the request id has an answer", None, DriverError("", UNIQUE_VIOLATION))
            return Result(rowcount=1)

        self._insert = Statement(insert)
        self._find = Statement(lambda c, p: _one(c.get(table, (p["method"], p["request_id"]))))

    def insert(self, connection: Connection, **values: Any) -> None:
        self._insert.send(connection, **values)

    def find(self, connection: Connection, method: str, request_id: str) -> Any:
        return self._find.first(connection, method=method, request_id=request_id)

    def forget(self, before_us: int, going_on: Callable[[], bool]) -> None:
        """No simulation lasts as long as they are kept."""


class SimulatedAnswers(ReplyStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._database, self._clock = SimulatedDatabase(engine), clock
        self._answers: Any = SimulatedAnswerRows(engine, "answers")


class SimulatedRequests(IdempotencyStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._database, self._clock = SimulatedDatabase(engine), clock
        self._answers: Any = SimulatedAnswerRows(engine, "requests")

        def erase(c: Connection, p: Columns) -> Result:
            about = [row for row in c.scan("requests") if row["about"] == p["about_"]]
            for row in about:
                c.update("requests", (row["method"], row["request_id"]), {"reply": b"", "is_erased": True})
            return Result(rowcount=len(about))

        self._erase: Any = Statement(erase)
