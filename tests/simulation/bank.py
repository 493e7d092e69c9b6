"""A service of a team's own, whose writes change several resources of two kinds at once.

A move takes an amount from one account, gives it to another, and writes an entry of that. It may swap the aliases of
the two, which no two accounts share, look at the balance of a third account, and delete the entry before. No account is
ever below zero, so the sum of all balances stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass

from handfast.chassis.v1 import options_pb2
from handfast.server.chassis import FailedPrecondition, key_text
from handfast.server.transactions import Participant, ParticipantTables, ResourceType, UnitOfWork, resource_table

PACKAGE = "simulation"
OPENING = 10
"""What is in an account at first. Nobody opens one: the first move that concerns it makes it."""

_MESSAGES = {
    "Account": "string account_id; int64 balance; string alias; int64 entry_count",
    "Entry": "string entry_id; string tag; int64 balance; int64 looked_at",
    "MoveRequest": (
        "string giver; string taker; string looks_at; int64 amount; bool swaps_aliases; bool drops_entry_before; "
        "string tag; string request_id"
    ),
    "MoveResponse": "Account giver; Account taker; Entry entry",
    "GetStatementRequest": "repeated string account_ids",
    "GetStatementResponse": "repeated Account accounts; repeated Entry entries",
}


def _contract() -> Any:
    file = FileDescriptorProto(
        name=f"{PACKAGE}/bank.proto", package=PACKAGE, syntax="proto3", dependency=[options_pb2.DESCRIPTOR.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split("; "), start=1):
            *repeated, type_, field_name = text.split()
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if type_ in _MESSAGES:
                field.type_name = f".{PACKAGE}.{type_}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{type_.upper()}")
    service = file.service.add(name="BankService")
    for name, takes_part in (("Move", options_pb2.stageable), ("GetStatement", options_pb2.lockable)):
        types = {"input_type": f".{PACKAGE}.{name}Request", "output_type": f".{PACKAGE}.{name}Response"}
        service.method.add(name=name, **types).options.Extensions[takes_part] = True
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindFileByName(file.name)


DESCRIPTOR = _contract()
_SERVICE = DESCRIPTOR.services_by_name["BankService"]


def _message(name: str) -> type[Any]:
    return GetMessageClass(DESCRIPTOR.message_types_by_name[name])


Account, Entry = _message("Account"), _message("Entry")
MoveRequest, MoveResponse = _message("MoveRequest"), _message("MoveResponse")
GetStatementRequest, GetStatementResponse = _message("GetStatementRequest"), _message("GetStatementResponse")


class BankStub:
    Move: Any
    GetStatement: Any

    def __init__(self, channel: Any) -> None:
        for method in _SERVICE.methods:
            setattr(self, method.name, channel.unary_unary(f"/{_SERVICE.full_name}/{method.name}"))


_metadata = sa.MetaData()
_tables = ParticipantTables(_metadata)


class _Accounts(ResourceType[Any]):
    def unique_values(self, message: Any) -> frozenset[str]:
        return frozenset({alias_claim(message.alias)})

    def taken(self, value: str) -> Exception:
        return AssertionError(f"{value} is taken, though aliases are only ever swapped")


ACCOUNTS = _Accounts(
    resource_table(
        "accounts",
        _metadata,
        sa.Column("account_id", key_text(64), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("entry_count", sa.BigInteger, nullable=False),
    ),
    Account,
)
ENTRIES = ResourceType(
    resource_table(
        "entries",
        _metadata,
        sa.Column("entry_id", key_text(75), primary_key=True),
        sa.Column("tag", sa.String(64), nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("looked_at", sa.BigInteger, nullable=False),
    ),
    Entry,
)


def alias_claim(alias: str) -> str:
    return f"alias:{alias}"


def entry_key(account_id: str, number: int) -> str:
    return f"{account_id}/{number}"


class NotEnough(FailedPrecondition):
    reason = "NOT_ENOUGH"


class BankServicer:
    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._accounts, self._entries = participant.collection(ACCOUNTS), participant.collection(ENTRIES)

    def Move(self, request: Any, context: object) -> Any:
        return self._participant.write(request, lambda unit: _move(unit, request), MoveResponse)

    def GetStatement(self, request: Any, context: object) -> Any:
        """The accounts, with the last entry of each, and the next where there is one by then."""
        accounts = self._accounts.batch(list(request.account_ids))
        keys = [key for id_ in accounts for key in stated_entries(id_, accounts[id_].message.entry_count)]
        entries = self._entries.batch(keys)
        return GetStatementResponse(accounts=_messages(accounts), entries=_messages(entries))


def stated_entries(account_id: str, entry_count: int) -> list[str]:
    """Which entries a statement looks for: one that is there, and one that is not, as far as the account knows."""
    return [entry_key(account_id, number) for number in (entry_count, entry_count + 1) if number]


def _messages(versions: Any) -> Iterable[Any]:
    return (version.message for version in versions.values())


def _move(unit: UnitOfWork, request: Any) -> Any:
    giver, taker = _account(unit, request.giver), _account(unit, request.taker)
    if giver.balance < request.amount:
        raise NotEnough(f"{request.giver} has {giver.balance} left, of which {request.amount} are to be moved.")
    giver.balance -= request.amount
    taker.balance += request.amount
    if request.swaps_aliases:
        giver.alias, taker.alias = taker.alias, giver.alias
    giver.entry_count += 1
    entry = Entry(entry_id=entry_key(request.giver, giver.entry_count), tag=request.tag, balance=giver.balance)
    if request.looks_at:
        entry.looked_at = _account(unit, request.looks_at).balance
    unit.put(ACCOUNTS, request.giver, giver)
    unit.put(ENTRIES, entry.entry_id, entry)
    unit.put(ACCOUNTS, request.taker, taker)
    if request.drops_entry_before:
        unit.delete(ENTRIES, entry_key(request.giver, giver.entry_count - 1))
    return MoveResponse(giver=giver, taker=taker, entry=entry)


def _account(unit: UnitOfWork, key: str) -> Any:
    return unit.get(ACCOUNTS, key) or Account(account_id=key, balance=OPENING, alias=key)
