"""CreditsService, and the server that serves it."""

from __future__ import annotations

import grpc

from credits.tables import KINDS, MAX_NOTE, accounts, entries, participant_tables
from credits.v1 import credits_pb2 as pb
from credits.v1 import credits_pb2_grpc
from handfast.server.chassis import (
    FailedPrecondition,
    Schema,
    Server,
    Service,
    Violations,
    fields,
    now,
    page_token,
    reason_name,
    require_page,
)
from handfast.server.transactions import Participant, ParticipantSettings, UnitOfWork, participant_server

DOMAIN = "credits"  # names the service in its errors
SCHEMA = Schema("credits", migrations="credits:migrations")
MAX_AMOUNT = 1_000_000_000


class InsufficientCredits(FailedPrecondition):
    reason = reason_name(pb.Reason, pb.REASON_INSUFFICIENT_CREDITS)


class CreditsServicer(credits_pb2_grpc.CreditsServiceServicer):
    def __init__(self, participant: Participant) -> None:
        self._write = participant.write
        self._accounts = participant.collection(accounts)
        self._entries = participant.collection(entries)

    def Grant(self, request: pb.GrantRequest, context: grpc.ServicerContext) -> pb.GrantResponse:
        _check(request)
        return self._write(request, lambda work: pb.GrantResponse(entry=_add(work, request, 1)), pb.GrantResponse)

    def Spend(self, request: pb.SpendRequest, context: grpc.ServicerContext) -> pb.SpendResponse:
        _check(request)
        return self._write(request, lambda work: pb.SpendResponse(entry=_add(work, request, -1)), pb.SpendResponse)

    def GetBalance(self, request: pb.GetBalanceRequest, context: grpc.ServicerContext) -> pb.GetBalanceResponse:
        fields.require_id("account_id", request.account_id)
        account = self._accounts.get(request.account_id)
        return pb.GetBalanceResponse(balance=account.message.balance if account else 0)

    def ListEntries(self, request: pb.ListEntriesRequest, context: grpc.ServicerContext) -> pb.ListEntriesResponse:
        fields.require_id("account_id", request.account_id)
        of_account = f"{request.account_id}/"
        after, size = require_page(request, of_account)
        found, next_after = self._entries.page(after, size, prefix=of_account)
        return pb.ListEntriesResponse(entries=found, next_page_token=page_token(of_account, next_after))


def _check(request: pb.GrantRequest | pb.SpendRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "account_id", request.account_id)
        if not 1 <= request.amount <= MAX_AMOUNT:
            violations.add("amount", f"must be from 1 to {MAX_AMOUNT}, not {request.amount}")
        fields.check_text(violations, "note", request.note, MAX_NOTE)
        fields.check_request_id(violations, request.request_id)


def _add(work: UnitOfWork, request: pb.GrantRequest | pb.SpendRequest, sign: int) -> pb.Entry:
    """Changes the balance of an account, and writes the entry that says so. Both commit, or neither."""
    key, amount = request.account_id, request.amount
    account = work.get(accounts, key) or pb.Account(account_id=key)
    if account.balance + sign * amount < 0:
        message = f"Account {key} has {account.balance} credits, and {amount} are to be spent."
        raise InsufficientCredits(message, account_id=key, balance=account.balance, amount=amount)
    account.balance += sign * amount
    account.entry_count += 1
    entry_id = f"{key}/{account.entry_count:010}"
    entry = pb.Entry(entry_id=entry_id, amount=sign * amount, balance=account.balance, note=request.note)
    entry.create_time.FromMicroseconds(now())
    work.put(accounts, key, account)
    work.put(entries, entry_id, entry)
    return entry


def build(settings: ParticipantSettings) -> Server:
    return participant_server(settings, settings.accounts_address, SCHEMA, participant_tables, KINDS, _service)


def _service(participant: Participant) -> Service:
    add_to_server = credits_pb2_grpc.add_CreditsServiceServicer_to_server
    return Service(
        pb.DESCRIPTOR.services_by_name["CreditsService"], add_to_server, CreditsServicer(participant), DOMAIN
    )
