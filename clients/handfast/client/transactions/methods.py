"""What a method can do in a transaction, by its contract."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from handfast.client.arguments import check_metadata
from handfast.client.methods import check_request, find_contract, name_of
from handfast.client.transaction_metadata import STAGE_KEYS
from handfast.client.transactions.errors import TransactionMisuse

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Part(enum.Enum):
    """How a call takes part in a transaction."""

    WRITE = "stageable"
    READ = "lockable"


class _Contract(NamedTuple):
    part: Part
    request_class: type[Message]


@lru_cache(maxsize=1000)
def _contract(path: str) -> _Contract | None:
    """Of the method that gRPC calls `path`, such as `/handfast.users.v1.UserService/GetUser`; None where it cannot take
    part, or has no contract in this process."""
    from google.protobuf.message_factory import GetMessageClass

    from handfast.chassis.v1 import options_pb2

    method = find_contract(path)
    if method is None:
        return None
    extensions = method.GetOptions().Extensions
    if extensions[options_pb2.stageable]:
        return _Contract(Part.WRITE, GetMessageClass(method.input_type))
    return _Contract(Part.READ, GetMessageClass(method.input_type)) if extensions[options_pb2.lockable] else None


def changes_nothing(path: str) -> bool:
    """Whether the method's contract says so."""
    from google.protobuf.descriptor_pb2 import MethodOptions

    method = find_contract(path)
    return method is not None and method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS


def no_part(path: str) -> TransactionMisuse:
    """For a call of a method that cannot take part."""
    return TransactionMisuse(
        f"{name_of(path)} cannot take part in a transaction, as its contract says neither `stageable` nor `lockable` "
        "of it. Call it outside, by a stub of the suite."
    )


def check_given(path: str, request: Any, metadata: Any) -> tuple[Part, tuple[tuple[str, str | bytes], ...]]:
    """What the call is for the transaction, and its metadata. Raises TransactionMisuse on what cannot take part, and
    TypeError or ValueError on what is no request of the method or no metadata."""
    contract = _contract(path)
    if contract is None:
        raise no_part(path)
    check_request(name_of(path), contract.request_class, request)
    if getattr(request, "request_id", ""):
        raise TransactionMisuse(
            f"{name_of(path)}: request_id must be empty in a transaction, whose calls are repeated safely without it."
        )
    given = check_metadata(metadata)
    for key, _ in given:
        if key in STAGE_KEYS:
            raise TransactionMisuse(f"{name_of(path)}: the metadata {key} is set by the transaction itself.")
    return contract.part, given
