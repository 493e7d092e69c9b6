"""Puts the preferences server together."""

from __future__ import annotations

from handfast.client import channel
from handfast.preferences.v1 import preferences_pb2, preferences_pb2_grpc
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.data.migrations import database_check, open_database
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.server import Server, Service
from handfast.server.preferences import tables
from handfast.server.preferences.definitions import Definitions
from handfast.server.preferences.resources import PreferencesResources
from handfast.server.preferences.service import PreferencesServicer
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.metrics import export_participant
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.server.transactions.participant.service import participant_service
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub

DOMAIN = "handfast.preferences"
SCHEMA = Schema("preferences", "handfast.server.preferences:migrations")


def build(settings: SuiteSettings) -> Server:
    """Raises StartError where the database cannot be used."""
    database = open_database(settings, SCHEMA)
    coordinator = channel(settings.accounts_address)
    requests = IdempotencyStore(database, tables.requests)
    preferences = Participant(
        "preferences",
        database,
        tables.participant,
        PreferencesResources(),
        requests,
        CoordinatorResolver(TransactionServiceStub(coordinator), threads=settings.threads),
        threads=settings.threads,
    )
    service = Service(
        preferences_pb2.DESCRIPTOR.services_by_name["PreferencesService"],
        preferences_pb2_grpc.add_PreferencesServiceServicer_to_server,
        PreferencesServicer(preferences, Definitions(database), requests),
        DOMAIN,
    )
    server = Server(
        settings,
        domain=DOMAIN,
        services=(service, participant_service(preferences, DOMAIN)),
        checks=(database_check(database, SCHEMA),),
        background=(preferences.sweeper,),
        on_close=(coordinator.close, database.close),
    )
    export_participant(server.metrics.registry, preferences)
    return server
