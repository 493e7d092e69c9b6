"""`handfast transactions`: lists decided transactions and those in doubt, shows one, and resolves one.

`resolve` makes no decision of its own. A transaction that is undecided is rolled back at the coordinator, as it would
be after its deadline; then the decision that stands there is carried out. Only a commit is sent to the participants
from here, since its operations show that they and the coordinator belong together. If a mistake in an address made them
parts of different suites, a rollback sent to them would drop what their own coordinator may have committed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from handfast.client import ServiceError
from handfast.server.cli import reports
from handfast.server.cli.inquiry import Case, Inquiry
from handfast.server.cli.settings import COORDINATOR, on_this_machine, read_addresses, read_participants
from handfast.server.process.command import Failure
from handfast.transactions.v1 import transactions_pb2 as pb

PAUSE = 0.1
"""Seconds between two looks at whether all participants have finished."""

UNKNOWN = "no server knows of this transaction: it was never used, or has only begun"


def run(action: str, arguments: Mapping[str, Any]) -> None:
    addresses = {**on_this_machine(), **read_addresses(arguments), **read_participants(arguments)}
    try:
        inquiry = Inquiry(addresses)
    except ValueError as error:  # of the variables with certificates and a token
        raise Failure(str(error)) from error
    try:
        with contextlib.closing(inquiry):
            {"list": _list, "show": _show, "resolve": _resolve}[action](inquiry, arguments)
    except ServiceError as error:
        raise Failure(str(error)) from error


def _list(inquiry: Inquiry, arguments: Mapping[str, Any]) -> None:
    limit: int = arguments["limit"]
    if not arguments["in_doubt"]:
        state = (arguments["state"] or "unspecified").upper()
        request = pb.ListTransactionsRequest(state=pb.TransactionState.Value(f"TRANSACTION_STATE_{state}"))
        decided = inquiry.decisions(request, limit)
        _print(arguments, reports.decisions(decided), [reports.plain(each) for each in decided])
        return
    if arguments["state"]:
        raise click.UsageError("Of --state and --in-doubt only one can be given.")
    cases, silent = inquiry.in_doubt(limit)
    _print(arguments, reports.in_doubt(cases, silent), [reports.plain_case(case) for case in cases])
    if len(cases) == limit:
        click.echo(f"handfast: transactions: these are the oldest {len(cases)}; see --limit", err=True)
    if silent:
        raise Failure(f"no answer from {_places(inquiry, silent)}: what is in doubt there is not listed")


def _show(inquiry: Inquiry, arguments: Mapping[str, Any]) -> None:
    case = inquiry.case(arguments["transaction_id"])
    _print(arguments, reports.one(case), reports.plain_case(case))


def _resolve(inquiry: Inquiry, arguments: Mapping[str, Any]) -> None:
    transaction_id: str = arguments["transaction_id"]
    if arguments["accept_loss"]:
        _accept_loss(inquiry, transaction_id, arguments["accept_loss"])
    before = inquiry.case(transaction_id)
    if against := before.contradicting:
        raise Failure(
            f"{_places(inquiry, against)} finished it otherwise than the coordinator at "
            f"{inquiry.addresses[COORDINATOR]} says: is it theirs, or was a backup restored? Nothing was done"
        )
    if before.unknown and not arguments["yes"]:
        _ask_whether_to_end_unknown()
    results = _carry_out(inquiry, before)
    lost = [name for name, result in results.items() if result == pb.FINISH_RESULT_LOST]
    failed = [name for name, result in results.items() if result == pb.FINISH_RESULT_FAILED]
    case = inquiry.case(before.id) if lost or failed else _wait(inquiry, before.id, arguments["timeout"])
    was_unknown = before.unknown and case.transaction.state == pb.TRANSACTION_STATE_ABORTED
    remark = " No server knew of it before; from now on it cannot be used." if was_unknown else ""
    _print(arguments, reports.one(case) + remark, reports.plain_case(case) | {"was_unknown": was_unknown})
    if lost:
        raise Failure(
            f"{_places(inquiry, lost)} lost what was committed: it is neither staged nor applied there; "
            "was a backup restored, or is this the address of another suite? "
            f"Once it is certain not to come back, {' '.join(f'--accept-loss {name}' for name in lost)} ends it without"
        )
    if failed:
        raise Failure(
            f"{_places(inquiry, failed)} failed to finish it: the log there says why. It is tried again, so mend that; "
            f"{' '.join(f'--accept-loss {name}' for name in failed)} ends it without all that it staged there"
        )
    if case.silent:
        raise Failure(f"no answer from {_places(inquiry, case.silent)}: whether it is finished there is not known")
    if case.held_by:
        raise Failure(
            f"{_places(inquiry, case.held_by)} did not finish it within {arguments['timeout']:g} s; "
            f"is the server of its coordinator at {inquiry.addresses[COORDINATOR]}?"
        )
    if unconfigured := " and ".join(case.transaction.unconfigured_participants):
        raise Failure(f"the coordinator has no address of {unconfigured}, and so cannot finish it there")
    if not case.finished:
        raise Failure(
            f"a participant did not confirm to the coordinator within {arguments['timeout']:g} s; it goes on trying"
        )


def _accept_loss(inquiry: Inquiry, transaction_id: str, participants: Sequence[str]) -> None:
    case = inquiry.case(transaction_id)
    if whole := [each for each in participants if case.is_whole_at(each)]:
        raise Failure(f"{_places(inquiry, whole)} finished it as decided, and lost nothing. Nothing was done")
    inquiry.accept_loss(transaction_id, participants)


def _ask_whether_to_end_unknown() -> None:
    """As the id of another transaction may be meant. A script, which cannot be asked, has to say `--yes`."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise Failure(f"{UNKNOWN}; nothing was done, with --yes it is rolled back so that it can never be used")
    if not click.confirm(f"{UNKNOWN.capitalize()}. Roll it back, so that it can never be used?", err=True):
        raise Failure("nothing was done")


def _carry_out(inquiry: Inquiry, case: Case) -> dict[str, pb.FinishResult.ValueType]:
    """Has the decision made that is lacking, and carried out what is decided. Returns what participants answered that
    were told a commit.
    """
    match case.transaction.state:
        case pb.TRANSACTION_STATE_UNDECIDED | pb.TRANSACTION_STATE_ABORTED:
            if not inquiry.roll_back(case.id):
                return _carry_out(inquiry, inquiry.case(case.id))
        case pb.TRANSACTION_STATE_COMMITTED:
            concerned = [name for name in case.branches if name in case.held_by or case.committed_count(name)]
            asked = [name for name in concerned if name not in case.silent]
            return {name: inquiry.apply(case, name) for name in asked}
        case pb.TRANSACTION_STATE_FORGOTTEN:
            pass  # what is left is dropped by whoever holds it
        case _:
            state = reports.state(case.transaction)
            raise Failure(f"its state {state} is not known to this version of handfast; nothing was done")
    return {}


def _wait(inquiry: Inquiry, transaction_id: str, timeout: float) -> Case:
    """Waits until all that answer have finished, and the coordinator knows, if all are configured there; for `timeout`
    seconds at the most. Returns how things are then.
    """
    end = time.monotonic() + timeout
    while True:
        case = inquiry.case(transaction_id)
        settled = case.finished or case.silent or case.transaction.unconfigured_participants
        if (not case.held_by and settled) or time.monotonic() > end:
            return case
        time.sleep(PAUSE)


def _places(inquiry: Inquiry, names: list[str]) -> str:
    return " and ".join(f"{name} at {inquiry.addresses[name]}" for name in names)


def _print(arguments: Mapping[str, Any], text: str, value: object) -> None:
    click.echo(json.dumps(value, indent=2) if arguments["as_json"] else text)
