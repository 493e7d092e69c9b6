"""Shows transactions in words and tables, and prepares them for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from handfast.server.cli.inquiry import Case
from handfast.transactions.v1 import transactions_pb2 as pb

NOTHING = "-"
NO_ADDRESS = "no address"


def decisions(transactions: Sequence[pb.Transaction]) -> str:
    if not transactions:
        return "No transaction is decided."
    rows = [("TRANSACTION", "STATE", "DECIDED", "FINISHED", "OPERATIONS OR REASON")]
    for each in transactions:
        operations = ", ".join(f"{branch.participant} {branch.operation_count}" for branch in each.branches)
        what = operations or each.abort_reason or NOTHING
        rows.append((each.transaction_id, state(each), _stamp(each, "decide_time"), _stamp(each, "finish_time"), what))
    return _table(rows)


def in_doubt(cases: Sequence[Case], silent: Sequence[str]) -> str:
    if not cases:
        return f"Nothing is in doubt, but for {' and '.join(silent)}." if silent else "Nothing is in doubt."
    unasked = sorted({name for case in cases for name in case.unasked})
    rows = [["TRANSACTION", "STATE", "BEGUN", "DEADLINE", *(name.upper() for name in [*cases[0].branches, *unasked])]]
    for case in cases:
        held = [_held(branch) for branch in case.branches.values()]
        held += [NO_ADDRESS if name in case.unasked else NOTHING for name in unasked]
        rows.append([case.id, state(case.transaction), _time(case.begun), _time(case.deadline), *held])
    return _table(rows)


def one(case: Case) -> str:
    facts = [
        ("transaction", case.id),
        ("state", state(case.transaction)),
        ("id minted", _time(case.begun)),
        ("deadline", _time(case.deadline)),
        ("decided", _stamp(case.transaction, "decide_time")),
        ("finished", _stamp(case.transaction, "finish_time")),
        ("reason", case.transaction.abort_reason or NOTHING),
    ]
    rows = [("PARTICIPANT", "BRANCH", "STAGED", "COMMITTED", "OUTCOME")]
    for name, branch in case.branches.items():
        committed = str(case.committed_count(name) or NOTHING)
        if branch is None:
            rows.append((name, "no answer", NOTHING, committed, NOTHING))
        else:
            rows.append((name, state(branch), str(branch.operation_count), committed, state(branch, "outcome")))
    rows += [(name, NO_ADDRESS, NOTHING, str(case.committed_count(name) or NOTHING), NOTHING) for name in case.unasked]
    return "\n\n".join((_table(facts), _table(rows), meaning(case)))


def meaning(case: Case) -> str:
    """What the state of a transaction means, and what happens next."""
    held = " and ".join(case.held_by)
    resolve = f"`handfast transactions resolve {case.id}`"
    sentences = []
    if against := " and ".join(case.contradicting):
        sentences.append(f"DATA WAS LOST: {against} finished it otherwise than the coordinator says.")
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
                "Committed: all of it is visible, for good. Some participant has still to apply it in its own tables; "
                f"the coordinator keeps telling it, and {resolve} does so now."
            )
        case pb.TRANSACTION_STATE_ABORTED:
            sentences.append("Rolled back: nothing of it is visible, for good.")
            if not case.finished:
                sentences.append(
                    "Some participant has still to drop what is staged; the coordinator keeps telling it, and "
                    f"{resolve} has it told now."
                )
        case pb.TRANSACTION_STATE_FORGOTTEN:
            sentences.append("Decided and finished so long ago that the decision is no longer kept.")
        case _:
            sentences.append("Its state is not known to this version of handfast; it counts as undecided.")
    if accepted := " and ".join(case.transaction.loss_accepted):
        sentences.append(f"An operator let {accepted} finish it without what was lost there, or could not be applied.")
    unconfigured = case.transaction.unconfigured_participants
    for name in unconfigured:
        sentences.append(
            f"The coordinator has no address of {name}, and so does not notify it: configure it again, or, if it is "
            f"gone for good, let `handfast transactions resolve {case.id} --accept-loss {name}` end it without."
        )
    if unasked := [name for name in case.unasked if name not in unconfigured]:
        where = " ".join(f"--participant {name}=ADDRESS" for name in unasked)
        sentences.append(f"What {' and '.join(unasked)} holds is not known here; {where} would say where to ask.")
    if held and case.finished:
        sentences.append(f"What {held} still holds was not committed, and is dropped within seconds.")
    if silent := " and ".join(case.silent):
        sentences.append(f"No answer from {silent}, so what is there is not known.")
    return " ".join(sentences)


def plain(message: Message) -> dict[str, Any]:
    """For JSON: the message under the names of the contract."""
    return MessageToDict(message, preserving_proto_field_name=True)


def plain_case(case: Case) -> dict[str, Any]:
    """For JSON: the transaction, and beside its own fields what each participant says."""
    participants = {name: None if branch is None else plain(branch) for name, branch in case.branches.items()}
    return {**plain(case.transaction), "participants": participants}


def state(message: pb.Transaction | pb.Branch, field: str = "state") -> str:
    """COMMITTED and so on; the number of a state that this version does not know; NOTHING where there is none."""
    return str(plain(message).get(field, NOTHING)).rpartition("_STATE_")[2]


def _held(branch: pb.Branch | None) -> str:
    if branch is None:
        return "no answer"
    return f"{state(branch)} {branch.operation_count}" if branch.transaction_id else NOTHING


def _stamp(message: Message, field: str) -> str:
    return _time(getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None)


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else NOTHING


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
