"""What the call being served reads within its transaction, and tells in its trailer (rule 13)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from handfast.client.transaction_metadata import READS
from handfast.server.chassis.call import Call, serving
from handfast.server.chassis.metadata import base64_bytes
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import Read, ResourceName
from handfast.server.transactions.core.reading import merged
from handfast.server.transactions.participant.errors import ReadChanged, TooManyReads

LIMIT = 5 * 1024
"""Bytes that the trailer may have. The rest of what gRPC lets metadata have is for errors, and for what proxies add."""


def transaction_of_call() -> str | None:
    """The transaction that the call being served carries; None for a plain call, and outside of calls. Raises
    InvalidMetadata.
    """
    call = serving()
    return None if call is None else wire.parse_transaction_id(call.metadata)


def read_before(call: Call) -> Sequence[Read]:
    """What it has read so far."""
    encoded = call.state.get(READS)
    return wire.decode_reads(encoded) if encoded else ()


def record(reads: Iterable[Read]) -> None:
    """Notes what the call being served has read within its transaction. Raises ReadChanged, TooManyReads."""
    call = serving()
    if call is not None:
        transaction_id = str(wire.parse_transaction_id(call.metadata))
        tell(call, encode(merge(transaction_id, [*read_before(call), *reads])))


def merge(transaction_id: str, reads: Iterable[Read]) -> Collection[Read]:
    """Each resource once. Raises ReadChanged where it was read with two revisions."""
    match merged(reads):
        case ResourceName() as changed:
            raise ReadChanged(transaction_id, changed)
        case together:
            return together.values()


def encode(reads: Collection[Read]) -> bytes:
    """The value of the trailer. Where that would be too large, what is held is left out: nobody changes it, and if the
    caller has read it before, it compares it at the commit. Raises TooManyReads.
    """
    encoded = wire.encode_reads(reads)
    if base64_bytes(len(encoded)) > LIMIT:
        encoded = wire.encode_reads(read for read in reads if not read.held)
    if (size := base64_bytes(len(encoded))) > LIMIT:
        raise TooManyReads(size, LIMIT)
    return encoded


def tell(call: Call, encoded: bytes) -> None:
    """Has the call answer with these, whatever it was to answer before."""
    call.state[READS] = encoded
    call.set_trailer(READS, encoded)
