"""docs/transactions.md says what the code and the contracts do. (test_examples.py runs its programs, and
tests/grpcurl/test_readme.py its calls by grpcurl.)"""

from __future__ import annotations

import re

import grpc

from handfast.chassis.v1.reasons_pb2 import Reason as Chassis
from handfast.client.transactions.ending import LOOK_UP_SECONDS, ROLL_BACK_SECONDS
from handfast.client.transactions.journal import MAX_TIMEOUT
from handfast.client.transactions.state import MAX_READS
from handfast.preferences.v1.reasons_pb2 import Reason as Preferences
from handfast.server.process.settings import ParticipantLimits
from handfast.server.transactions.core.model import MAX_BYTES, MAX_OPERATIONS, MAX_PARTS
from handfast.server.transactions.participant.read_set import LIMIT
from handfast.transactions.v1.reasons_pb2 import Reason as Transactions
from handfast.users.v1.reasons_pb2 import Reason as Users
from tests.project.readme import TRANSACTIONS, dangling_links, quoted, table

ERROR_HEADER = ("error", "when", "what to do")


def test_links_lead_somewhere() -> None:
    assert dangling_links(TRANSACTIONS) == []


def test_reasons_are_those_of_the_contracts() -> None:
    known = {
        name.removeprefix("REASON_")
        for reasons in (Chassis, Preferences, Transactions, Users)
        for name in reasons.DESCRIPTOR.values_by_name
    }
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", TRANSACTIONS.read_text()))
    assert named >= {"PENDING_CHANGE", "READ_CHANGED", "TRANSACTION_ABORTED", "TOO_MANY_TRANSACTIONS"}
    codes = {code.name for code in grpc.StatusCode}
    assert {name for name in named if not name.startswith("HANDFAST_")} <= known | codes


def test_errors_are_those_of_the_client() -> None:
    import handfast.client

    named = {name for cell, *_ in table(TRANSACTIONS, *ERROR_HEADER) for name in quoted(cell) if name[0].isupper()}
    assert named >= {"Aborted", "OutcomeUnknown", "TransactionMisuse"}
    classes = {name for name in named if "_" not in name}
    assert all(issubclass(getattr(handfast.client, name), Exception) for name in classes)


def test_bounds_are_those_of_the_code() -> None:
    bounds = {row[0]: row[1] for row in table(TRANSACTIONS, "what", "how much")}
    at_one_service = bounds["writes and locks at one service"]
    assert at_one_service.startswith(
        f"{MAX_OPERATIONS:,} calls, which change or lock up to {MAX_PARTS:,} resources, of {MAX_BYTES >> 20} MiB "
    )
    assert f"up to {MAX_READS:,} resources by one call" in at_one_service
    limits = ParticipantLimits(name="users", listen="127.0.0.1:0", database_url="sqlite:////nowhere")
    open_at_once = bounds["open transactions at one service"]
    assert open_at_once.startswith(f"{limits.max_open_transactions_per_caller:,} of one caller, ")
    assert f"and {limits.max_open_transactions:,} of all" in open_at_once
    assert f"up to {MAX_TIMEOUT:.0f} seconds" in bounds["time from `transaction()` to the commit"]
    assert (
        f"up to {ROLL_BACK_SECONDS:.0f} seconds:"
        in bounds["leaving the block by an exception, while the coordinator is away"]
    )
    assert f"for up to {ROLL_BACK_SECONDS:.0f} seconds" in bounds["closing the suite while transactions are open"]
    leaving = bounds["leaving it otherwise, while the coordinator is away"]
    assert leaving.startswith(f"up to {LOOK_UP_SECONDS + ROLL_BACK_SECONDS:.0f} seconds after the deadline")
    assert f"{30.0 + LOOK_UP_SECONDS + ROLL_BACK_SECONDS:.0f} seconds after `transaction()` by default" in leaving
    assert f"until {LOOK_UP_SECONDS:.0f} seconds after it" in leaving
    assert leaving.endswith("`OutcomeUnknown`")
    assert f"{LIMIT >> 10} KiB of metadata" in bounds["resources that one call reads, such as BatchGetUsers"]
