"""Puts the preferences server together."""

from __future__ import annotations

from handfast.preferences.v1 import preferences_pb2, preferences_pb2_grpc
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.server import Server, Service
from handfast.server.preferences import tables
from handfast.server.preferences.definitions import Definitions
from handfast.server.preferences.resources import PreferencesResources
from handfast.server.preferences.service import PreferencesServicer
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.server import participant_server

SCHEMA = Schema("preferences", "handfast.server.preferences:migrations")
PREFERENCES = PreferencesResources()


def build(settings: SuiteSettings) -> Server:
    """Raises StartError where the database cannot be used."""
    coordinator = settings.accounts_address
    return participant_server(settings, coordinator, SCHEMA, tables.participant, [PREFERENCES], _service)


def _service(participant: Participant) -> Service:
    return Service(
        preferences_pb2.DESCRIPTOR.services_by_name["PreferencesService"],
        preferences_pb2_grpc.add_PreferencesServiceServicer_to_server,
        PreferencesServicer(participant.collection(PREFERENCES), Definitions(participant.store.database)),
        domain="handfast.preferences",
    )
