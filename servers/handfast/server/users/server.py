"""Puts the users server together."""

from __future__ import annotations

from handfast.client import channel
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.data.migrations import database_check, open_database
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.server import Server, Service
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.metrics import export_participant
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.server.transactions.participant.service import participant_service
from handfast.server.users import tables
from handfast.server.users.resources import UserResources
from handfast.server.users.service import UserServicer
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
from handfast.users.v1 import users_pb2, users_pb2_grpc

DOMAIN = "handfast.users"
SCHEMA = Schema("users", "handfast.server.users:migrations")


def build(settings: SuiteSettings) -> Server:
    """Raises StartError where the database cannot be used."""
    database = open_database(settings, SCHEMA)
    coordinator = channel(settings.accounts_address)
    users = Participant(
        "users",
        database,
        tables.participant,
        UserResources(),
        IdempotencyStore(database, tables.requests),
        CoordinatorResolver(TransactionServiceStub(coordinator), threads=settings.threads),
        threads=settings.threads,
    )
    service = Service(
        users_pb2.DESCRIPTOR.services_by_name["UserService"],
        users_pb2_grpc.add_UserServiceServicer_to_server,
        UserServicer(users),
        DOMAIN,
    )
    server = Server(
        settings,
        domain=DOMAIN,
        services=(service, participant_service(users, DOMAIN)),
        checks=(database_check(database, SCHEMA),),
        background=(users.sweeper,),
        on_close=(coordinator.close, database.close),
    )
    export_participant(server.metrics.registry, users)
    return server
