"""By reflection, grpcurl learns all that a server serves, as the contracts have it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from handfast.accounts.v1 import accounts_pb2
from handfast.preferences.v1 import preferences_pb2
from handfast.transactions.v1 import transactions_pb2
from handfast.users.v1 import users_pb2
from tests.eventually import PATIENCE
from tests.grpcurl.tool import Grpcurl

EVERY_SERVER = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
OF_PARTICIPANTS = {"handfast.transactions.v1.LockService", "handfast.transactions.v1.ParticipantService"}
SERVED = {
    "users": {"handfast.users.v1.UserService", *OF_PARTICIPANTS},
    "preferences": {"handfast.preferences.v1.PreferencesService", *OF_PARTICIPANTS},
    "accounts": {"handfast.accounts.v1.AccountService", "handfast.transactions.v1.TransactionService"},
}
CONTRACTS = {
    service.full_name: service
    for contract in (users_pb2, preferences_pb2, accounts_pb2, transactions_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
}


@pytest.mark.parametrize("server", SERVED)
def test_a_server_lists_its_services(grpcurl: Grpcurl, addresses: dict[str, str], server: str) -> None:
    assert set(grpcurl.services(addresses[server])) == SERVED[server] | EVERY_SERVER


def test_it_lists_them_beside_streams_that_do_nothing(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    address, end = addresses["users"], threading.Event()
    opened: Any
    with grpc.insecure_channel(address) as opened:
        streams = [
            opened.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")(nothing(end))
            for version in ("v1", "v1alpha")
            for _ in range(20)
        ]
        try:
            assert "handfast.users.v1.UserService" in grpcurl.services(address)
        finally:
            end.set()
            for stream in streams:
                stream.cancel()


def nothing(end: threading.Event) -> Iterator[bytes]:
    """Requests that never come."""
    end.wait(2 * PATIENCE)
    yield from ()


@pytest.mark.parametrize(
    ("server", "service"), [(server, service) for server in SERVED for service in sorted(SERVED[server])]
)
def test_a_service_is_described_with_all_its_methods(
    grpcurl: Grpcurl, addresses: dict[str, str], server: str, service: str
) -> None:
    described = grpcurl.describe(addresses[server], service)
    methods = re.findall(r"rpc (\w+) \( \.([\w.]+) \) returns \( \.([\w.]+) \)", described)
    assert sorted(methods) == sorted(
        (method.name, method.input_type.full_name, method.output_type.full_name)
        for method in CONTRACTS[service].methods
    )


@pytest.mark.parametrize("server", SERVED)
@pytest.mark.parametrize("service", sorted(EVERY_SERVER))
def test_what_every_server_has_is_described(
    grpcurl: Grpcurl, addresses: dict[str, str], server: str, service: str
) -> None:
    assert f"{service} is a service:" in grpcurl.describe(addresses[server], service)


def test_a_message_is_described_with_all_its_fields(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    described = grpcurl.describe(addresses["users"], "handfast.users.v1.User")
    fields = re.findall(r"(\w+) = (\d+)", described)
    assert fields == [(field.name, str(field.number)) for field in users_pb2.User.DESCRIPTOR.fields]


def test_what_a_method_of_the_suite_may_do_is_described(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    described = grpcurl.describe(addresses["users"], "handfast.users.v1.UserService")
    assert "option (.handfast.chassis.v1.stageable) = true;" in described
    assert "option idempotency_level = NO_SIDE_EFFECTS;" in described


def test_one_method_is_described_by_its_name(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    described = grpcurl.describe(addresses["users"], "handfast.users.v1.UserService.GetUser")
    assert "rpc GetUser ( .handfast.users.v1.GetUserRequest )" in described


@pytest.mark.parametrize("server", SERVED)
def test_health(grpcurl: Grpcurl, addresses: dict[str, str], server: str) -> None:
    names = ("", "liveness", "readiness", *SERVED[server])
    for service in names:
        answer = grpcurl.call(addresses[server], "grpc.health.v1.Health/Check", {"service": service})
        assert answer == {"status": "SERVING"}
    listed = grpcurl.call(addresses[server], "grpc.health.v1.Health/List", {})["statuses"]
    assert listed == {name: {"status": "SERVING"} for name in names}
