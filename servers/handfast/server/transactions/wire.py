"""What a transaction looks like on the wire: the metadata of a staged call, and times and ids as text."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping

from handfast.client.transaction_metadata import DEADLINE, FIRST_ATTEMPT, FOLLOWS, OPERATION, STAGE_KEYS, TRANSACTION_ID
from handfast.server.chassis.call import Call
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND
from handfast.server.chassis.data.idempotency import Serializable, fingerprint
from handfast.server.chassis.errors import InvalidMetadata, Violations
from handfast.server.transactions.core.model import OWNER_LENGTH, Outcome, Read, ResourceName, StageRequest
from handfast.server.transactions.horizon import id_at
from handfast.transactions.v1 import transactions_pb2 as pb

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

MAX_BATCH = 1000
"""How many transactions one call may ask for."""
MAX_TIMEOUT_US = 300 * MICROSECONDS_PER_SECOND
"""How long a transaction may take."""
MAX_CLOCK_SKEW_US = 5 * MICROSECONDS_PER_SECOND
"""How far ahead another machine's clock may be."""

FINISH = "branches.write"
"""The scope of those who may tell participants what was decided."""

OUTCOMES = {pb.TRANSACTION_STATE_COMMITTED: Outcome.COMMITTED, pb.TRANSACTION_STATE_ABORTED: Outcome.ABORTED}
STATES = {outcome: state for state, outcome in OUTCOMES.items()}

_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def stage_metadata(
    transaction_id: str, number: int, deadline_us: int, first_attempt: str = ""
) -> tuple[tuple[str, str], ...]:
    """What a caller sends with a staged call. `first_attempt` is the transaction that this one runs again."""
    return (
        (TRANSACTION_ID, transaction_id),
        (OPERATION, str(number)),
        (DEADLINE, format_time(deadline_us)),
        (FIRST_ATTEMPT, first_attempt or transaction_id),
    )


def parse_stage_request(call: Call, request: Serializable) -> StageRequest | None:
    """The staged call that this is, or None for a plain one. A first attempt that is older than any transaction can be
    counts as one that old, so that nobody gains precedence without end. Raises InvalidMetadata.
    """
    metadata = call.metadata
    transaction_id = parse_transaction_id(metadata)
    if transaction_id is None:
        return None
    number = str(metadata.get(OPERATION, ""))
    if not _NUMBER.fullmatch(number):
        raise InvalidMetadata(f"{OPERATION} must be a whole number from 1 on.", key=OPERATION)
    try:
        deadline_us = parse_time(str(metadata.get(DEADLINE, "")))
    except ValueError:
        raise InvalidMetadata(f"{DEADLINE} must be a time by RFC 3339, with its offset.", key=DEADLINE) from None
    first_attempt = str(metadata.get(FIRST_ATTEMPT, transaction_id))
    if not is_transaction_id(first_attempt) or first_attempt > transaction_id:
        raise InvalidMetadata(f"{FIRST_ATTEMPT} must be the id of an earlier transaction.", key=FIRST_ATTEMPT)
    follows = str(metadata.get(FOLLOWS, ""))
    if follows and (not is_transaction_id(follows) or follows == transaction_id):
        raise InvalidMetadata(f"{FOLLOWS} must be the id of another transaction.", key=FOLLOWS)
    if call.identity is not None and FINISH not in call.identity.scopes:
        follows = ""  # what was decided is learnt from those alone who may tell it
    digest = fingerprint(call.method.path, request)
    first_attempt = max(first_attempt, id_at(minted_at(transaction_id) - MAX_TIMEOUT_US))
    must_own, owner = call.caller is not None, call.caller or connection_of(call.peer)
    return StageRequest(transaction_id, int(number), deadline_us, first_attempt, digest, follows, owner, must_own)


def connection_of(peer: str) -> str:
    """Who opens a branch where calls carry no identity: the connection that its call comes by, such as
    `ipv4:127.0.0.1:50000`. By their hosts alone, all callers on one machine would be one, and any of them could have
    the others refused.
    """
    return peer[-OWNER_LENGTH:]


def parse_transaction_id(metadata: Mapping[str, str | bytes]) -> str | None:
    """The transaction that a call reads in; None for a plain call. Raises InvalidMetadata."""
    if STAGE_KEYS.isdisjoint(metadata):
        return None
    transaction_id = str(metadata.get(TRANSACTION_ID, ""))
    if not is_transaction_id(transaction_id):
        raise InvalidMetadata(f"{TRANSACTION_ID} must be an id that BeginTransaction returned.", key=TRANSACTION_ID)
    return transaction_id


def encode_reads(reads: Iterable[Read]) -> bytes:
    """What goes into the trailer `handfast-reads-bin`: a `ReadSet`."""
    read_set = pb.ReadSet()
    for read in reads:
        read_set.reads.add(resource=str(read.resource), revision=read.revision, held=read.held)
    return read_set.SerializeToString()


def decode_reads(encoded: bytes) -> list[Read]:
    return [
        Read(resource_name(read.resource), read.revision, read.held) for read in pb.ReadSet.FromString(encoded).reads
    ]


def resource_name(text: str) -> ResourceName:
    kind, _, key = text.partition("/")
    return ResourceName(kind, key)


def is_transaction_id(text: str) -> bool:
    return _UUID7.fullmatch(text) is not None


def minted_at(transaction_id: str) -> int:
    """When a transaction id was minted, in microseconds since the epoch (RFC 9562: its first 48 bits are
    milliseconds).
    """
    return int(transaction_id[:8] + transaction_id[9:13], 16) * 1000


def format_time(microseconds: int) -> str:
    moment = _EPOCH + microseconds * _MICROSECOND
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> int:
    """Microseconds since the epoch. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return (moment - _EPOCH) // _MICROSECOND


def check_transaction_id(violations: Violations, field: str, transaction_id: str) -> None:
    if not is_transaction_id(transaction_id):
        violations.add(field, "must be a transaction id: a UUIDv7 in lower case")
