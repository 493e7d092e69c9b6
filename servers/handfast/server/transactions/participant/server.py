"""Puts a server together that owns data and takes part in transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.data.metrics import export_writes
from handfast.server.chassis.data.migrations import database_check, open_database
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.peers import peer_channel
from handfast.server.chassis.server import Server, Service
from handfast.server.chassis.start_errors import StartError
from handfast.server.process.settings import ParticipantLimits
from handfast.server.transactions.metrics import export_participant
from handfast.server.transactions.participant import migrations
from handfast.server.transactions.participant.lock_service import lock_service
from handfast.server.transactions.participant.open_branches import OpenBranches
from handfast.server.transactions.participant.participant import Participant
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.server.transactions.participant.resource_type import ResourceType
from handfast.server.transactions.participant.service import participant_service
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.tables import ParticipantTables
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub


def participant_server(
    settings: ParticipantLimits,
    coordinator_address: str,
    schema: Schema,
    tables: ParticipantTables,
    types: Sequence[ResourceType[Any]],
    service: Callable[[Participant], Service],
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> Server:
    """A server with one service of its own, ParticipantService and LockService. `types` has all kinds of resources that
    it owns. `service` makes the service of the participant that it is given; transactions know the participant by the
    owner of the `schema`. The server opens its database, asks the coordinator at `coordinator_address`, sweeps in the
    background, exports the metrics of its branches, and at the end closes what it has opened. `interceptors` are those
    of `Server`: they stand around ParticipantService and LockService, too. Raises StartError where the database cannot
    be used.
    """
    database = open_database(settings, schema)
    _check_tables(database, tables, types)
    coordinator = peer_channel(settings, coordinator_address)
    participant = Participant(
        Store(schema.owner, database, tables, types),
        IdempotencyStore(database, tables.requests),
        CoordinatorResolver(TransactionServiceStub(coordinator), schema.owner, threads=settings.threads),
        threads=settings.threads,
        open_branches=OpenBranches(settings.max_open_transactions, settings.max_open_transactions_per_caller),
    )
    own = service(participant)
    server = Server(
        settings,
        domain=own.domain,
        services=(own, lock_service(participant, own.domain), participant_service(participant, own.domain)),
        checks=(database_check(database, schema),),
        background=(participant.sweeper,),
        on_close=(coordinator.close, database.close),
        interceptors=interceptors,
    )
    export_participant(server.metrics.registry, participant)
    export_writes(server.metrics.registry, database)
    return server


def _check_tables(database: Database, tables: ParticipantTables, types: Sequence[ResourceType[Any]]) -> None:
    """Raises StartError where the service's migrations have not made all that the library needs."""
    needed = [tables.branches, tables.operations, tables.requests, *(each.table for each in types)]
    with database.engine.connect() as connection:
        missing = migrations.missing(connection, needed, [each.kind for each in types])
    if missing is not None:
        database.close()
        raise StartError(f"cannot use {database.name}: {missing}")
