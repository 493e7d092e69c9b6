"""LockService: what transactions have read here is locked, or compared, before they commit (rule 13)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc

from handfast.client.transaction_metadata import TRANSACTION_ID
from handfast.server.chassis.call import current
from handfast.server.chassis.errors import InvalidMetadata, Violations
from handfast.server.chassis.requests import fields
from handfast.server.chassis.server import Service
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import Read, ResourceName
from handfast.server.transactions.core.reading import has_changed
from handfast.server.transactions.participant.errors import ReadChanged
from handfast.server.transactions.participant.participant import Participant
from handfast.server.transactions.participant.resource_type import ResourceType
from handfast.server.transactions.participant.tables import KEY_LENGTH
from handfast.server.transactions.participant.unit_of_work import UnitOfWork
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1 import transactions_pb2_grpc as pb_grpc


class LockServicer(pb_grpc.LockServiceServicer):
    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._types = participant.store.types

    def LockReads(self, request: pb.LockReadsRequest, context: grpc.ServicerContext) -> pb.LockReadsResponse:
        transaction_id = wire.parse_transaction_id(current().metadata)
        if transaction_id is None:
            raise InvalidMetadata("Only a transaction locks what it has read.", key=TRANSACTION_ID)
        reads = self._checked(request.reads)

        work = locking(self._types, transaction_id, reads)
        # The caller knows what it has read, which may be more than a trailer can say.
        return self._participant.write(request, work, pb.LockReadsResponse, tells_reads=False)

    def LockResources(
        self, request: pb.LockResourcesRequest, context: grpc.ServicerContext
    ) -> pb.LockResourcesResponse:
        if wire.parse_transaction_id(current().metadata) is None:
            raise InvalidMetadata("Only a transaction locks what it is about to read.", key=TRANSACTION_ID)
        to_change = [wire.resource_name(each) for each in request.to_change]
        named = [*(wire.resource_name(each) for each in request.to_read), *to_change]
        with Violations.collect() as violations:
            if not 1 <= len(named) <= wire.MAX_BATCH:
                rule = f"must have 1 to {wire.MAX_BATCH} entries together with to_change, not {len(named)}"
                violations.add("to_read", rule)
            elif len(set(named)) < len(named):
                violations.add("to_read", "must name each only once, and none that to_change names")
            else:
                for index, name in enumerate(named):
                    before = index - len(request.to_read)
                    self._check(violations, f"to_change[{before}]" if before >= 0 else f"to_read[{index}]", name)

        def work(unit: UnitOfWork) -> pb.LockResourcesResponse:
            for kind, keys in _by_kind(named):
                unit.lock(self._types[kind], keys)
            for kind, key in to_change:
                unit.lock_to_change(self._types[kind], key)
            return pb.LockResourcesResponse()

        return self._participant.write(request, work, pb.LockResourcesResponse)

    def CompareReads(self, request: pb.CompareReadsRequest, context: grpc.ServicerContext) -> pb.CompareReadsResponse:
        reads = self._checked(request.reads)
        now = {
            (kind, key): revision
            for kind, keys in _by_kind(read.resource for read in reads)
            for key, revision in self._participant.collection(self._types[kind]).revisions(keys).items()
        }
        changed = [str(read.resource) for read in reads if has_changed(read, now[read.resource])]
        return pb.CompareReadsResponse(changed=changed)

    def _checked(self, asked: Iterable[pb.Read]) -> list[Read]:
        """What a request names. Raises InvalidFields."""
        reads = [Read(wire.resource_name(each.resource), each.revision, each.held) for each in asked]
        with Violations.collect() as violations:
            if fields.check_batch(violations, "reads", [str(read.resource) for read in reads], wire.MAX_BATCH):
                for index, read in enumerate(reads):
                    self._check(violations, f"reads[{index}].resource", read.resource)
        return reads

    def _check(self, violations: Violations, field: str, name: ResourceName) -> None:
        if name.kind not in self._types or not name.key:
            violations.add(field, f"must be <kind>/<key>, with a kind of this service: {', '.join(self._types)}")
        fields.check_text(violations, field, name.key, KEY_LENGTH)


def locking(
    types: Mapping[str, ResourceType[Any]], transaction_id: str, reads: Sequence[Read]
) -> Callable[[UnitOfWork], pb.LockReadsResponse]:
    """The work of a staged call that locks what a transaction has read: as it looks at it, that is locked. It raises
    ReadChanged where something has another revision now.
    """

    def work(unit: UnitOfWork) -> pb.LockReadsResponse:
        for kind, keys in _by_kind(read.resource for read in reads):
            unit.lock(types[kind], keys)
        for read in reads:
            if has_changed(read, unit.revision(types[read.resource.kind], read.resource.key)):
                raise ReadChanged(transaction_id, read.resource)
        return pb.LockReadsResponse()

    return work


def _by_kind(names: Iterable[ResourceName]) -> list[tuple[str, list[str]]]:
    """The keys of each kind, in the order in which all writers take locks."""
    keys: dict[str, list[str]] = {}
    for name in sorted(names):
        keys.setdefault(name.kind, []).append(name.key)
    return list(keys.items())


def lock_service(participant: Participant, domain: str) -> Service:
    """What a server adds to its services for transactions that read. It may wait as the service's own calls do, and so
    shares their threads.
    """
    return Service(
        pb.DESCRIPTOR.services_by_name["LockService"],
        pb_grpc.add_LockServiceServicer_to_server,
        LockServicer(participant),
        domain,
        own_kinds={kind for kind, type_ in participant.store.types.items() if type_.belongs_to_subject},
    )
