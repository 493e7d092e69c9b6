"""Shows transactions in words, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.server.cli.inquiry import Case
from handfast.transactions.v1 import transactions_pb2 as pb

NOTHING = "-"


def decisions(transactions: Sequence[pb.Transaction]) -> str:
    if not transactions:
        return "No transaction is decided."
    head = ("TRANSACTION", "STATE", "DECIDED", "FINISHED", "OPERATIONS OR REASON")
    return _table(
        head,
        *(
            (
                each.transaction_id,
                state(each),
                _stamp(each, "decide_time"),
                _stamp(each, "finish_time"),
                ", ".join(f"{branch.participant} {branch.operation_count}" for branch in each.branches)
                or each.abort_reason
                or NOTHING,
            )
            for each in transactions
        ),
    )


def in_doubt(cases: Sequence[Case], silent: Sequence[str]) -> str:
    if not cases:
        return f"Nothing is in doubt, but for {_enumerate(silent)}." if silent else "Nothing is in doubt."
    names = list(cases[0].branches)
    head = ("TRANSACTION", "STATE", "BEGUN", "DEADLINE", *(name.upper() for name in names))
    return _table(
        head,
        *(
            (
                case.id,
                state(case.transaction),
                _time(case.begun),
                _time(case.deadline) if case.deadline else NOTHING,
                *(_held(case.branches[name]) for name in names),
            )
            for case in cases
        ),
    )


def one(case: Case) -> str:
    transaction = case.transaction
    facts = [
        ("transaction", case.id),
        ("state", state(transaction)),
        ("id minted", _time(case.begun)),
        ("deadline", _time(case.deadline) if case.deadline else NOTHING),
        ("decided", _stamp(transaction, "decide_time")),
        ("finished", _stamp(transaction, "finish_time")),
        ("reason", transaction.abort_reason or NOTHING),
    ]
    head = ("PARTICIPANT", "BRANCH", "STAGED", "COMMITTED", "OUTCOME")
    rows = []
    for name, branch in case.branches.items():
        seen = ("no answer", NOTHING, NOTHING) if branch is None else _branch(branch)
        rows.append((name, *seen[:2], str(case.committed_count(name) or NOTHING), seen[2]))
    return "\n\n".join((_table(*facts), _table(head, *rows), meaning(case)))


def meaning(case: Case) -> str:
    """What the state of a transaction means, and what happens next."""
    held, silent = _enumerate(case.held_by), _enumerate(case.silent)
    resolve = f"`handfast transactions resolve {case.id}`"
    sentences = [_contradiction(case)]
    match case.transaction.state:
        case pb.TRANSACTION_STATE_UNDECIDED if held:
            sentences.append(f"Not decided. Nothing of it is visible; others cannot write what it changes at {held}.")
            if case.deadline and case.deadline < datetime.now(UTC):
                sentences.append(f"Its deadline has passed, so it is about to be rolled back; {resolve} does so now.")
            else:
                sentences.append(f"Its caller may commit it until the deadline; {resolve} rolls it back now.")
        case pb.TRANSACTION_STATE_UNDECIDED:
            sentences.append("Not decided, and nothing is staged: it was never used, or has only begun.")
        case pb.TRANSACTION_STATE_COMMITTED if case.finished:
            sentences.append("Committed, and applied by every participant.")
        case pb.TRANSACTION_STATE_COMMITTED:
            sentences.append(
                "Committed: all of it is visible, for good. Some participant has still to apply it in its own"
            )
            sentences.append(f"tables; the coordinator keeps telling it, and {resolve} does so now.")
        case pb.TRANSACTION_STATE_ABORTED if case.finished:
            sentences.append("Rolled back: nothing of it is visible, for good.")
        case pb.TRANSACTION_STATE_ABORTED:
            sentences.append(
                "Rolled back: nothing of it is visible, for good. Some participant has still to drop what is"
            )
            sentences.append(f"staged; the coordinator keeps telling it, and {resolve} has it told now.")
        case pb.TRANSACTION_STATE_FORGOTTEN:
            sentences.append("Decided and finished so long ago that the decision is no longer kept.")
        case _:
            sentences.append("Its state is not known to this version of handfast; it counts as undecided.")
    if accepted := _enumerate(case.transaction.loss_accepted):
        sentences.append(f"An operator let {accepted} finish it without what was lost there.")
    if held and case.finished:
        sentences.append(f"What {held} still holds was not committed, and is dropped within seconds.")
    if silent:
        sentences.append(f"No answer from {silent}, so what is there is not known.")
    return " ".join(filter(None, sentences))


def _contradiction(case: Case) -> str:
    against = _enumerate(contradicting(case))
    return against and f"DATA WAS LOST: {against} finished it otherwise than the coordinator says."


def contradicting(case: Case) -> list[str]:
    """The participants that finished it otherwise than it is decided: theirs is another coordinator, or somebody's
    database was set back.
    """
    if case.transaction.state == pb.TRANSACTION_STATE_FORGOTTEN:
        return []
    committed = case.transaction.state == pb.TRANSACTION_STATE_COMMITTED
    return [
        name
        for name, branch in case.branches.items()
        if branch
        and name not in case.transaction.loss_accepted
        and (
            (branch.outcome == pb.TRANSACTION_STATE_COMMITTED and not committed)
            or (branch.outcome == pb.TRANSACTION_STATE_ABORTED and committed and case.committed_count(name))
        )
    ]


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2)


def plain(transaction: pb.Transaction) -> dict[str, Any]:
    """For JSON: the message under the names of the contract."""
    return MessageToDict(transaction, preserving_proto_field_name=True)


def plain_case(case: Case) -> dict[str, Any]:
    """For JSON: the transaction, and beside its own fields what each participant says."""
    participants = {
        name: None if branch is None else MessageToDict(branch, preserving_proto_field_name=True)
        for name, branch in case.branches.items()
    }
    return {**plain(case.transaction), "participants": participants}


def state(transaction: pb.Transaction) -> str:
    return _name(pb.TransactionState.DESCRIPTOR, transaction.state, "TRANSACTION_STATE_")


def _branch(branch: pb.Branch) -> tuple[str, str, str]:
    """Its state, how many operations it has, and its outcome."""
    outcome = _name(pb.TransactionState.DESCRIPTOR, branch.outcome, "TRANSACTION_STATE_") if branch.outcome else NOTHING
    return _name(pb.BranchState.DESCRIPTOR, branch.state, "BRANCH_STATE_"), str(branch.operation_count), outcome


def _held(branch: pb.Branch | None) -> str:
    if branch is None:
        return "no answer"
    if not branch.transaction_id:
        return NOTHING
    name, count, _ = _branch(branch)
    return f"{name} {count}"


def _name(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """A value that this version does not know is shown by its number."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(prefix)


def _stamp(transaction: pb.Transaction, field: str) -> str:
    stamp: Timestamp = getattr(transaction, field)
    return _time(stamp.ToDatetime(UTC)) if transaction.HasField(field) else NOTHING  # type: ignore[arg-type]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _enumerate(names: Sequence[str]) -> str:
    return " and ".join(names)


def _table(*rows: Sequence[str]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
