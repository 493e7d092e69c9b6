"""What a method can do in a transaction, by its contract."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Any, NoReturn

from handfast.client.arguments import check_metadata
from handfast.client.transaction_metadata import STAGE_KEYS
from handfast.client.transactions.errors import TransactionMisuse


class Part(enum.Enum):
    """How a call takes part in a transaction."""

    WRITE = "stageable"
    READ = "lockable"


@lru_cache(maxsize=1000)
def part_of(path: str) -> Part | None:
    """How calls of the method that gRPC calls `path`, such as `/handfast.users.v1.UserService/GetUser`, take part; None
    where they do not, or where its contract is not in this process."""
    from google.protobuf import descriptor_pool

    from handfast.chassis.v1 import options_pb2

    try:
        method = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
    except KeyError:
        return None
    options = method.GetOptions()
    if options.Extensions[options_pb2.stageable]:
        return Part.WRITE
    return Part.READ if options.Extensions[options_pb2.lockable] else None


def refuse(path: str) -> NoReturn:
    """Raises TransactionMisuse."""
    raise TransactionMisuse(
        f"{name_of(path)} cannot take part in a transaction, as its contract says neither `stageable` nor `lockable` "
        "of it. Call it outside, by a stub of the suite."
    )


def check_given(path: str, request: Any, metadata: Any) -> tuple[Part, tuple[tuple[str, str | bytes], ...]]:
    """What the call is for the transaction, and its metadata. Raises TransactionMisuse on what cannot take part, and
    TypeError or ValueError on what is no metadata."""
    part = part_of(path) or refuse(path)
    if getattr(request, "request_id", ""):
        raise TransactionMisuse(
            f"{name_of(path)}: request_id must be empty in a transaction, whose calls are repeated safely without it."
        )
    given = check_metadata(metadata)
    for key, _ in given:
        if key in STAGE_KEYS:
            raise TransactionMisuse(f"{name_of(path)}: the metadata {key} is set by the transaction itself.")
    return part, given


def name_of(path: str) -> str:
    return path.rpartition("/")[2]
