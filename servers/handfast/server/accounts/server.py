"""Puts the accounts server together, the coordinator in its own process: an atomic update costs no call for the
decision.
"""

from __future__ import annotations

from handfast.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from handfast.accounts.v1.reasons_pb2 import Reason as AccountsReason
from handfast.chassis.v1.reasons_pb2 import Reason as ChassisReason
from handfast.client import Suite
from handfast.preferences.v1.reasons_pb2 import Reason as PreferencesReason
from handfast.server.accounts import tables
from handfast.server.accounts.service import AccountServicer
from handfast.server.chassis.data.metrics import export_writes
from handfast.server.chassis.data.migrations import database_check, open_database
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.peers import peer_channel
from handfast.server.chassis.server import Server, Service
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.coordinator.coordinator import Coordinator
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds, load_key
from handfast.server.transactions.coordinator.pruner import Pruner
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.coordinator.service import transaction_service
from handfast.server.transactions.metrics import export_coordinator
from handfast.transactions.v1.reasons_pb2 import Reason as TransactionsReason
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.reasons_pb2 import Reason as UsersReason

DOMAIN = "handfast.accounts"
SCHEMA = Schema("accounts", "handfast.server.accounts:migrations")
REASONS = (UsersReason, PreferencesReason, AccountsReason, TransactionsReason, ChassisReason)
"""What transactions are aborted for."""


def build(settings: SuiteSettings) -> Server:
    """Raises StartError where the database cannot be used."""
    database = open_database(settings, SCHEMA)
    suite = Suite(
        peer_channel(settings, settings.users_address),
        peer_channel(settings, settings.preferences_address),
        peer_channel(settings, settings.accounts_address),
        open_channel=lambda name: peer_channel(settings, settings.participants[name]),
    )

    decisions = DecisionStore(database, tables.coordinator)
    replies = ReplyStore(database, tables.coordinator.answers)
    participants = {name: suite.stub(ParticipantServiceStub, name) for name in settings.participants}
    notifier = DecisionNotifier(decisions, participants)
    ids = OwnedIds(load_key(database, tables.coordinator.owner_key))
    locks = KeyedLock(waiting=max(1, settings.threads // 2))
    service = Service(
        accounts_pb2.DESCRIPTOR.services_by_name["AccountService"],
        accounts_pb2_grpc.add_AccountServiceServicer_to_server,
        AccountServicer(suite, Coordinator(decisions, replies, notifier, locks, ids)),
        DOMAIN,
    )
    server = Server(
        settings,
        domain=DOMAIN,
        services=(service, transaction_service(decisions, replies, notifier, participants, ids)),
        checks=(database_check(database, SCHEMA),),
        background=(notifier, Pruner(decisions, replies)),
        on_close=(suite.close, database.close),
    )
    export_coordinator(server.metrics.registry, decisions, notifier, REASONS)
    export_writes(server.metrics.registry, database)
    return server
