"""The rules of whole transactions, left out as those in `without.py` are: what was read is held until the decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from handfast.client.transaction_metadata import TRANSACTION_ID
from handfast.client.transactions.state import Commit, Compare, Lock, Nothing, Step, TransactionState
from handfast.server.chassis.call import current
from handfast.server.transactions.core import conflicts
from handfast.server.transactions.core import finishing as finishing_rules
from handfast.server.transactions.core.finishing import Finish
from handfast.server.transactions.core.model import NO_REVISION, Part
from handfast.server.transactions.participant import collection
from handfast.server.transactions.participant.lock_service import LockServicer
from handfast.server.transactions.participant.resource_rows import ResourceRow
from handfast.server.transactions.participant.unit_of_work import UnitOfWork
from handfast.transactions.v1.transactions_pb2 import Read
from tests.simulation import statements
from tests.simulation.world import Without

# What was read is locked before the commit, and compared where nothing was written.

_next_step = TransactionState.next_step


def _lock_nothing(self: TransactionState) -> Step:
    step = _next_step(self)
    return Commit(self._operations()) if isinstance(step, Lock) and self._operations() else step


def _compare_nothing(self: TransactionState) -> Step:
    step = _next_step(self)
    return Nothing() if isinstance(step, Compare) else step


# What was read and then written is compared with what the write met.

_staged = TransactionState.staged


def _stage_whatever_it_met(
    self: TransactionState, participant: str, confirmed: str | None, reads: Iterable[Read]
) -> None:
    branch = self._branch(participant)
    as_read = [
        Read(resource=each.resource, revision=branch.reads.get(each.resource, each.revision), held=each.held)
        for each in reads
    ]
    _staged(self, participant, confirmed, as_read)


# What is locked is as it was read, free of changes, and held until the decision.

_note, _stage, _lock_reads = UnitOfWork._note, UnitOfWork.stage, LockServicer.LockReads


def _is_locking(*methods: str) -> bool:
    return current().method.name in (methods or ("LockReads",))


def _lock_beside_changes(self: UnitOfWork, type_: Any, row: ResourceRow[Any]) -> Any:
    return _note(self, type_, row._replace(pending_transaction_id=None) if _is_locking() else row)


def _hold_nothing(self: UnitOfWork) -> None:
    for kind, touched in self._touched.items():
        absent = [key for key, each in touched.items() if each.row.committed is None]
        self._store.rows[kind].drop_placeholders(self._connection, absent)
        touched.clear()


def _check_and_hold_nothing(self: UnitOfWork, number: int) -> list[Part]:
    if _is_locking():
        _hold_nothing(self)
    return _stage(self, number)


def _hold_nothing_first(self: UnitOfWork, number: int) -> list[Part]:
    if _is_locking("LockResources"):
        _hold_nothing(self)
    return _stage(self, number)


def _lock_nothing_that_it_looks_at(self: UnitOfWork, number: int) -> list[Part]:
    if not _is_locking("LockReads", "LockResources"):
        for kind, touched in self._touched.items():
            for key in [key for key, each in touched.items() if not each.is_changed]:
                self._store.rows[kind].drop_placeholders(self._connection, [key])
                del touched[key]
    return _stage(self, number)


def _lock_for_a_moment(self: LockServicer, request: Any, context: Any) -> Any:
    """The locks end before the transaction is decided."""
    reply = _lock_reads(self, request, context)
    store, id_ = self._participant.store, str(current().metadata[TRANSACTION_ID])

    def release(connection: Any) -> None:
        for row in statements.operations_of(connection, id_):
            if row["is_lock"]:
                key = (id_, row["number"], row["part"])
                connection.update("operations", key, {"kind": "", "resource": "", "is_lock": False})
                store.rows[row["kind"]].end_read_locks(connection, [row["resource"]])

    store.database.write(release)
    return reply


# Locks end with their branch.

_finish = finishing_rules.finish


def _finish_and_keep_the_locks(*arguments: Any) -> Any:
    finish = _finish(*arguments)
    return replace(finish, released=frozenset()) if isinstance(finish, Finish) else finish


# Reads see what their transaction has staged; and are told a revision that is that of what they see.

_visible = collection.Collection._visible


def _see_nothing_of_its_own(self: Any, rows: Any, mine: str | None = None) -> Any:
    return _visible(self, rows, None)


def _revisions_of_the_rows(self: Any, keys: Any) -> dict[str, str]:
    """As they are in the database, whatever is committed and not finished."""
    with self._store.database.read() as connection:
        found = {row.name.key: row.revision for row in self._rows.batch(connection, keys)}
    return {key: found.get(key, NO_REVISION) for key in keys}


def _of_state(name: str, value: Any, profile: str = "skew") -> Without:
    return Without(profile, patches=((TransactionState, name, value),))


WITHOUT_LOCKS: dict[str, Without] = {
    "locks of what was read": _of_state("next_step", _lock_nothing),
    "locks that are held": Without("skew", patches=((UnitOfWork, "stage", _check_and_hold_nothing),)),
    "locks taken before reading": Without("skew", patches=((UnitOfWork, "stage", _hold_nothing_first),)),
    "locks held until the decision": Without("skew", patches=((LockServicer, "LockReads", _lock_for_a_moment),)),
    "locks of what a write looks at": Without(
        "lookers", patches=((UnitOfWork, "stage", _lock_nothing_that_it_looks_at),)
    ),
    "locks keep writers away": Without("skew", patches=((conflicts, "lock_blocker", lambda *_: None),)),
    "locks give way to changes": Without("skew", patches=((UnitOfWork, "_note", _lock_beside_changes),)),
    "read and then written": _of_state("staged", _stage_whatever_it_met),
    "comparing what was only read": _of_state("next_step", _compare_nothing, "glimpses"),
    "locks end with the branch": Without("skew", patches=((finishing_rules, "finish", _finish_and_keep_the_locks),)),
    "reads see their own changes": Without(
        "skew", patches=((collection.Collection, "_visible", _see_nothing_of_its_own),)
    ),
    "revisions of what is seen": Without(
        "glimpses", patches=((collection.Collection, "revisions", _revisions_of_the_rows),)
    ),
}
