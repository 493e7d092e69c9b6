"""Puts the users server together."""

from __future__ import annotations

from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.server import Server, Service
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.server import participant_server
from handfast.server.users import tables
from handfast.server.users.resources import UserResources
from handfast.server.users.service import UserServicer
from handfast.users.v1 import users_pb2, users_pb2_grpc

SCHEMA = Schema("users", "handfast.server.users:migrations")
USERS = UserResources()


def build(settings: SuiteSettings) -> Server:
    """Raises StartError where the database cannot be used."""
    coordinator = settings.accounts_address
    return participant_server(settings, coordinator, SCHEMA, tables.participant, [USERS], _service)


def _service(participant: Participant) -> Service:
    return Service(
        users_pb2.DESCRIPTOR.services_by_name["UserService"],
        users_pb2_grpc.add_UserServiceServicer_to_server,
        UserServicer(participant.collection(USERS)),
        domain="handfast.users",
    )
