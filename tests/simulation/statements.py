"""The servers' stores upon the database in memory: the same classes, each SQL statement replaced by what it does.

Everything else of these classes is the servers' own code: which statements, in which order, under which locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from handfast.server.chassis.clock import Clock
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.core import coordinator as coordinator_rules
from handfast.server.transactions.core.model import BranchState
from handfast.server.transactions.horizon import Prunable
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.operations import Operations
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
OPERATION_COLUMNS = ("number", "resource", "fingerprint", "image", "reply")
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
        engine.tables.setdefault("rows", {})
        self._resources, self._key_name = resources, resources.key.name
        key = self._key_name

        def joined(c: Connection, rows: Iterable[Columns | None]) -> Result:
            """Rows, each with the operations of the transaction that has a pending change of it."""
            found: list[Columns] = []
            for row in rows:
                if row is not None:
                    pending = row["pending_transaction_id"]
                    operations = [o for o in operations_of(c, pending) if o["resource"] == row[key]] if pending else []
                    found.extend(with_operations(row, operations))
            return Result(found)

        def page(c: Connection, p: Columns) -> Result:
            later = sorted((row for row in c.scan("rows") if row[key] > p["after"]), key=lambda row: str(row[key]))
            return joined(c, later[: p["limit_"]])

        def lock_with_horizon(c: Connection, p: Columns) -> Result:
            horizon = c.get("horizon", 0)  # as it is before the statement waits for the lock
            assert horizon is not None
            if c.get("rows", p["key_"]) is not None:
                c.lock("rows", p["key_"])
            row = c.get("rows", p["key_"])
            return _one(None if row is None else {**row, "horizon": horizon["transaction_id"]})

        self._find: Any = Statement(lambda c, p: joined(c, [c.get("rows", p["key_"])]))
        self._batch: Any = Statement(lambda c, p: joined(c, [c.get("rows", each) for each in p["keys"]]))
        self._page: Any = Statement(page)
        self._lock: Any = _select_for_update("rows", "key_")
        self._lock_with_horizon: Any = Statement(lock_with_horizon)
        self._insert_placeholder: Any = _insert_new("rows", key, _defaults(resources.table))
        self._update: Any = _update("rows", "key_")
        self._delete: Any = _delete("rows", "key_")
        self._delete_placeholder: Any = Statement(
            lambda c, p: Result(rowcount=c.delete("rows", p["key_"], lambda row: not row["present"]))
        )


class SimulatedBranches(SimulatedPrunable, Branches):
    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        engine.tables.setdefault("branches", {})

        def unfinished(c: Connection) -> list[Columns]:
            return [row for row in c.scan("branches") if row["state"] != FINISHED]

        def lock_known(c: Connection, p: Columns) -> Result:
            known = [each for each in sorted(p["ids"]) if c.get("branches", each) is not None]
            for each in known:
                c.lock("branches", each)
            rows = [c.get("branches", each) for each in known]
            return Result(row for row in rows if row is not None)

        def prune(c: Connection, p: Columns) -> Result:
            def below(row: Columns) -> bool:
                return bool(row["transaction_id"] < p["horizon"] and row["state"] == FINISHED)

            found = [row["transaction_id"] for row in c.scan("branches") if below(row)]
            return Result(rowcount=sum(c.delete("branches", each, below) for each in found))

        self._insert: Any = _insert_new("branches", "transaction_id", {"outcome": None})
        self._find: Any = _select("branches", "id_")
        self._lock: Any = _select_for_update("branches", "id_")
        self._lock_known: Any = Statement(lock_known)
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

        def one(c: Connection, p: Columns) -> list[Columns]:
            return [o for o in operations_of(c, p["id_"]) if o["number"] == p["number_"]]

        def of_all(c: Connection, p: Columns) -> list[Columns]:
            return [o for each in p["ids"] for o in operations_of(c, each)]

        def last_image(c: Connection, p: Columns) -> Result:
            found = [o for o in operations_of(c, p["id_"]) if o["resource"] == p["resource_"]]
            return columns(found[-1:], "image")

        def sizes(c: Connection, p: Columns) -> Result:
            last = {o["transaction_id"]: o for o in of_all(c, p)}
            return columns(last.values(), "transaction_id", "number", "bytes_so_far")

        def insert(c: Connection, p: Columns) -> Result:
            inserted = c.insert("operations", (p["transaction_id"], p["number"]), dict(p))
            if not inserted:
                raise failure("duplicate key", UNIQUE_VIOLATION)
            return Result(rowcount=1)

        def delete(c: Connection, p: Columns) -> Result:
            keys = [(o["transaction_id"], o["number"]) for o in of_all(c, p)]
            return Result(rowcount=sum(c.delete("operations", key) for key in keys))

        self._find: Any = Statement(lambda c, p: columns(one(c, p), *OPERATION_COLUMNS))
        self._all: Any = Statement(lambda c, p: columns(of_all(c, p), "transaction_id", *OPERATION_COLUMNS))
        self._bytes: Any = Statement(lambda c, p: columns(one(c, p), "bytes_so_far"))
        self._last_image: Any = Statement(last_image)
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


class SimulatedStore(Store[M]):
    def __init__(self, participant: str, engine: Engine, resources: ResourceType[M]) -> None:
        self.participant, self.resources = participant, resources
        self.database = SimulatedDatabase(engine)
        self.rows = SimulatedRows(engine, resources)
        self.branches, self.operations = SimulatedBranches(engine), SimulatedOperations(engine)
        self.unique_keys = SimulatedUniqueKeys(engine)


def operations_of(c: Connection, transaction_id: str) -> list[Columns]:
    found = [row for row in c.scan("operations") if row["transaction_id"] == transaction_id]
    return sorted(found, key=lambda row: int(row["number"]))


def with_operations(row: Columns, operations: list[Columns]) -> Iterator[Columns]:
    """An outer join."""
    for operation in operations or [dict.fromkeys(OPERATION_COLUMNS)]:
        yield {**row, **{name: operation[name] for name in OPERATION_COLUMNS}}


class SimulatedRegister(SimulatedPrunable, DecisionStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__(engine)
        engine.tables.setdefault("decisions", {})
        self._clock = clock
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


class SimulatedAnswers(ReplyStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        engine.tables.setdefault("answers", {})
        self._database, self._clock = SimulatedDatabase(engine), clock
        columns = ("method", "request_id", "fingerprint", "transaction_id", "reply", "failure")

        def select(c: Connection, p: Columns) -> Result:
            row = c.get("answers", (p["method"], p["request_id"]))
            return Result() if row is None else Result([{name: row[name] for name in columns}])

        def insert(c: Connection, p: Columns) -> Result:
            if not c.insert("answers", (p["method"], p["request_id"]), dict(p)):
                raise IntegrityError("the request id has an answer", None, DriverError("", UNIQUE_VIOLATION))
            return Result(rowcount=1)

        self._insert: Any = Statement(insert)
        self._select: Any = Statement(select)


class SimulatedRequests(IdempotencyStore):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        engine.tables.setdefault("requests", {})
        self._database, self._clock = SimulatedDatabase(engine), clock

        def insert(c: Connection, p: Columns) -> Result:
            if not c.insert("requests", (p["method"], p["request_id"]), dict(p)):
                raise failure("the request has a reply", UNIQUE_VIOLATION)
            return Result(rowcount=1)

        self._insert: Any = Statement(insert)
        self._find: Any = Statement(lambda c, p: _one(c.get("requests", (p["method"], p["request_id"]))))
        self._delete: Any = Statement(lambda c, p: Result())  # no simulation lasts as long as they are kept
