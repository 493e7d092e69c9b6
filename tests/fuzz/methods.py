"""Every method that the suite serves, with its contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from handfast.accounts.v1 import accounts_pb2
from handfast.preferences.v1 import preferences_pb2
from handfast.server.chassis.operations import reflection
from handfast.transactions.v1 import transactions_pb2
from handfast.users.v1 import users_pb2

_USERS = users_pb2.DESCRIPTOR.services_by_name["UserService"]
_PREFERENCES = preferences_pb2.DESCRIPTOR.services_by_name["PreferencesService"]
_ACCOUNTS = accounts_pb2.DESCRIPTOR.services_by_name["AccountService"]
_TRANSACTIONS = transactions_pb2.DESCRIPTOR.services_by_name["TransactionService"]
PARTICIPANT = transactions_pb2.DESCRIPTOR.services_by_name["ParticipantService"]
LOCKS = transactions_pb2.DESCRIPTOR.services_by_name["LockService"]
OPERATIONS = (
    descriptor_pool.Default().FindServiceByName("grpc.health.v1.Health"),
    reflection.v1_descriptor(),
    descriptor_pool.Default().FindServiceByName("grpc.reflection.v1alpha.ServerReflection"),
)

SERVICES: dict[str, tuple[ServiceDescriptor, ...]] = {
    "users": (_USERS, LOCKS, PARTICIPANT, *OPERATIONS),
    "preferences": (_PREFERENCES, LOCKS, PARTICIPANT, *OPERATIONS),
    "accounts": (_ACCOUNTS, _TRANSACTIONS, *OPERATIONS),
}
"""What each server serves; a test compares it with what the servers themselves say."""


@dataclass(frozen=True)
class Method:
    server: str
    descriptor: MethodDescriptor

    @property
    def service(self) -> str:
        return self.descriptor.containing_service.full_name

    @property
    def name(self) -> str:
        return self.descriptor.name

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def request(self) -> Descriptor:
        return self.descriptor.input_type

    @property
    def held(self) -> bool:
        """Whether it goes on until its caller leaves."""
        return self.descriptor.server_streaming and not self.descriptor.client_streaming

    def __str__(self) -> str:
        return f"{self.server}:{self.service}/{self.name}"


def methods_of(services: Mapping[str, Iterable[ServiceDescriptor]]) -> tuple[Method, ...]:
    """All methods of these services, by the name of the server that serves them."""
    return tuple(Method(server, method) for server in services for each in services[server] for method in each.methods)


METHODS = methods_of(SERVICES)
GUARDED = tuple(method for method in METHODS if not method.service.startswith("grpc."))
"""Those for which a caller needs a permission; health and reflection are for everybody."""
