"""docs/observability.md has every metric of the suite's own, with its type and labels and where it is, and no other."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handfast.server.process.settings import METRICS_PORT_OFFSET
from tests.cli.processes import Process
from tests.deploy.promql import Series
from tests.project.readme import OBSERVABILITY, quoted, table

OF_CALLS = frozenset({"grpc_type", "grpc_service", "grpc_method"})
PREFIXES = ("grpc_server_", "handfast_")
EVERYWHERE = frozenset({"users", "preferences", "accounts"})


@dataclass(frozen=True)
class Metric:
    type: str
    labels: frozenset[str]
    servers: frozenset[str]


@pytest.fixture(scope="module")
def metrics(running: Process, exported: Series, of_certificates: Series) -> dict[str, Metric]:
    """After `exported`, when there are transactions to count. Labels of certificates are those of servers with TLS."""
    found: dict[str, Metric] = {}
    for server, name, type_, labels in _exported(running):
        before = found.get(name, Metric(type_, frozenset(), frozenset()))
        assert before.type == type_
        found[name] = Metric(type_, before.labels | labels, before.servers | {server})
    for name, labels_of_certificates in of_certificates.items():
        found[name] = replace(found[name], labels=frozenset(labels_of_certificates))
    return found


def _exported(running: Process) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    for server, address in running.addresses.items():
        host, port = address.split(":")
        with urllib.request.urlopen(f"http://{host}:{int(port) + METRICS_PORT_OFFSET}/metrics") as reply:
            text = reply.read().decode()
        for family in text_string_to_metric_families(text):
            if family.name.startswith(PREFIXES):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = {label for sample in family.samples for label in sample.labels}
                yield server, name, family.type, frozenset(labels - {"le"})


def _documented() -> Iterator[tuple[str, Metric]]:
    beside = f"labels beside {', '.join(f'`{label}`' for label in ('grpc_type', 'grpc_service', 'grpc_method'))}"
    for name, type_, labels, _says in table(OBSERVABILITY, "metric", "type", beside, "says"):
        further = {label for label in quoted(labels) if label.startswith("grpc_")}
        yield quoted(name)[0], Metric(type_, OF_CALLS | further, EVERYWHERE)
    for name, type_, labels, _says in table(OBSERVABILITY, "metric", "type", "labels", "says"):
        yield quoted(name)[0], Metric(type_, frozenset(quoted(labels)), EVERYWHERE)
    for name, type_, on, labels, _says in table(OBSERVABILITY, "metric", "type", "on", "labels", "says"):
        servers = EVERYWHERE if on == "all" else frozenset(on.split(", "))
        yield quoted(name)[0], Metric(type_, frozenset(quoted(labels)), servers)


def test_what_servers_export_is_documented_and_nothing_else(metrics: dict[str, Metric]) -> None:
    documented = list(_documented())
    assert dict(documented) == metrics
    assert len(documented) == len(metrics)


def test_each_pool_is_explained(exported: Series) -> None:
    text = OBSERVABILITY.read_text()
    _before, _pool, explained = text.partition("Each `pool` has threads of its own:")
    assert set(quoted(explained.partition("\n\n")[0])) == set(exported["handfast_calls_limit"]["pool"])
