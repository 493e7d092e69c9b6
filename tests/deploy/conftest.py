"""What running servers export, as Prometheus stores it when it scrapes them by deploy/prometheus/prometheus.yaml."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from handfast.client import Suite
from handfast.server.chassis.security.transport import CertificateMetrics, ServerTls
from handfast.server.cli.dev.folder import DevCredentials, make
from handfast.server.process.settings import ServerSettings
from handfast.server.suite import FIRST_PORT
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.cli.processes import Process
from tests.deploy.files import targets
from tests.deploy.promql import Series
from tests.eventually import eventually
from tests.people import create_user
from tests.project.readme import OBSERVABILITY, quoted, table
from tests.security.authority import Authority
from tests.transactions.calls import Transaction


@pytest.fixture(scope="session")
def database_urls() -> dict[str, str]:
    """SQLite: what is tested here does not depend on the database."""
    return {}


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> DevCredentials:
    return make(tmp_path_factory.mktemp("chart") / "dev", [])


@pytest.fixture(scope="session")
def exported(running: Process, client: Suite, of_certificates: Series) -> Series:
    """Of a suite in which a transaction was committed and one abandoned: before that, no series has a reason."""
    _staged(client, timeout_seconds=30).commit()
    _staged(client, timeout_seconds=5)
    decided = "handfast_transactions_decided_total"
    assert eventually(lambda: "TRANSACTION_EXPIRED" in _stored(running)[decided]["reason"])
    series = _stored(running)
    of_servers = {label: series["up"][label] for label in ("suite", "job", "instance")}
    return {**series, **{name: {**labels, **of_servers} for name, labels in of_certificates.items()}}


@pytest.fixture(scope="session")
def exported_with_authentication(exported: Series) -> Series:
    """With what servers have to say of who calls, which those of the suite do not ask."""
    of_callers = {}
    values = {"enforced": {"true", "false"}, "grpc_service": exported["grpc_server_handled_total"]["grpc_service"]}
    for name, _type, labels, _says in table(
        OBSERVABILITY, "metric", "type", "labels", "says where authentication is on"
    ):
        of_callers[quoted(name)[0]] = dict(exported["up"]) | {
            label: values.get(label, set()) for label in quoted(labels)
        }
    return {**exported, **of_callers}


@pytest.fixture(scope="session")
def of_certificates(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What a server has to say of its certificates, which those of the suite do not have."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    files, ca = authority.server(), str(authority.file)
    settings = ServerSettings(
        name="users",
        listen="127.0.0.1:0",
        tls_certificate=str(files.certificate),
        tls_key=str(files.key),
        tls_client_ca=ca,
        peer_ca=ca,
    )
    registry = CollectorRegistry()
    CertificateMetrics(settings, ServerTls(settings), registry)
    series: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in registry.collect():
        for sample in family.samples:
            of_name = series[sample.name]
            for label, value in sample.labels.items():
                of_name[label].add(value)
    return series


def _staged(client: Suite, timeout_seconds: int) -> Transaction:
    user = create_user(client)
    tx = Transaction(client, timeout_seconds)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=user.user_id))
    return tx


def _stored(running: Process) -> Series:
    series: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, labels in _samples(running):
        for label, value in labels.items():
            series[name][label].add(value)
    return series


def _samples(running: Process) -> Iterator[tuple[str, dict[str, str]]]:
    for job, target in targets():
        of_target = {"suite": "handfast/handfast", "job": job, "instance": target}
        yield "up", of_target  # Prometheus adds it
        port = running.first_port + int(target.rpartition(":")[2]) - FIRST_PORT
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            text = reply.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, {**sample.labels, **of_target}
