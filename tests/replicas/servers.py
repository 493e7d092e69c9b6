"""Servers in processes of their own, any number of each kind, all on the databases of one PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import sqlalchemy as sa
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from handfast.client import Suite, connect
from handfast.client.channel import DEFAULT_TIMEOUT, Interceptor
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import on_this_machine
from handfast.server.cli.supervisor import HANDFAST
from handfast.server.process.supervision import SUPERVISED
from handfast.server.suite import SuiteSettings
from tests.calls import bare_channel
from tests.cli.processes import CLEAN
from tests.eventually import eventually
from tests.silence import Way

NAMES = ("users", "preferences", "accounts")
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
START_S = 120.0
STOP_S = 30.0


class Cable:
    """What leads from callers to a server at `address`, and from it to its database at `database_url`. Who goes by the
    cable goes by those of the same name here.
    """

    def __init__(self, address: str, database_url: str) -> None:
        url = sa.make_url(database_url)
        self._ways = [Way(address), Way(f"{url.query['host']}/.s.PGSQL.5432")]
        to_server, to_database = self._ways
        self.address = to_server.address
        by_cable = url.set(host="127.0.0.1", port=to_database.port, query={})
        self.database_url = by_cable.render_as_string(hide_password=False)

    def pull(self) -> None:
        """Both ends of every connection are there, and hear nothing of each other."""
        for way in self._ways:
            way.cut()

    def plug_in(self) -> None:
        for way in self._ways:
            way.mend()

    def close(self) -> None:
        for way in self._ways:
            way.close()


class Server:
    """`handfast serve`, whose address and log stay the same over any number of starts. `environment` is all that its
    process has; its address is added. It ends with this process, however that ends. `credentials` are those of a
    client, where the server takes TLS.
    """

    def __init__(
        self,
        name: str,
        address: str,
        environment: Mapping[str, str],
        log: Path,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.name, self.address, self.log, self._credentials = name, address, log, credentials
        self._environment = {**environment, SuiteSettings.variable(name, "listen"): address}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, more: Mapping[str, str] = NO_SETTINGS) -> None:
        """`more` variables are for this time."""
        environment = {**self._environment, **more, SUPERVISED: "1"}
        with self.log.open("a") as stderr:
            self._process = subprocess.Popen(
                [*HANDFAST, "serve", self.name], env=environment, stdin=subprocess.PIPE, stderr=stderr
            )

    def wait_until_ready(self) -> None:
        """Raises RuntimeError where it ends before, or is not in time."""
        eventually(lambda: self.is_ready() or not self.is_running(), START_S)
        if not self.is_ready():
            raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-3000:]}")

    def is_ready(self) -> bool:
        """By its health, as clients ask that call replicas."""
        with bare_channel(self.address, self._credentials) as channel:
            health: Any = HealthStub(channel)
            try:
                answer = health.Check(HealthCheckRequest(), timeout=2.0)
            except grpc.RpcError:
                return False
        return bool(answer.status == HealthCheckResponse.SERVING)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} has not been started"
        return self._process

    def calls(self) -> list[dict[str, str]]:
        """The lines of the log for calls."""
        lines = (line for line in self.log.read_text().splitlines() if '"grpc.method"' in line)
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """Lets it end in its own time."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def pause(self) -> None:
        """As a machine does that is suspended: its connections stay, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def start(servers: Iterable[Server]) -> None:
    """All at once. Returns when all are ready."""
    started = list(servers)
    for each in started:
        each.start()
    for each in started:
        each.wait_until_ready()


def stop(servers: Iterable[Server]) -> None:
    """Lets those end that run, or are paused: first those that call others."""
    running = [each for each in servers if each.is_running()]
    for each in sorted(running, key=lambda server: NAMES.index(server.name), reverse=True):
        each.resume()
        each.stop()


class Replicas:
    """So many servers of each kind, which call each other, and are called, by lists of all replicas. `settings` are
    further variables of all of them. With `cables`, the last one of each kind is on a cable that can be pulled.
    """

    def __init__(
        self,
        count: int,
        folder: Path,
        databases: Mapping[str, str],
        settings: Mapping[str, str] = NO_SETTINGS,
        *,
        cables: bool = False,
    ) -> None:
        places = [on_this_machine(free_first_port()) for _ in range(count)]
        urls = {name: SuiteSettings.variable(name, "database_url") for name in NAMES}
        self.cables = {name: Cable(places[-1][name], databases[urls[name]]) for name in NAMES if cables}
        """By the name of the server."""
        reached = [*places[:-1], places[-1] | {name: cable.address for name, cable in self.cables.items()}]
        self.addresses = {name: ",".join(place[name] for place in reached) for name in NAMES}
        environment = {**CLEAN, **databases, "HANDFAST_MIGRATE": "true", **settings}
        environment |= {SuiteSettings.variable(name, f"{name}_address"): self.addresses[name] for name in NAMES}
        by_cable = {urls[name]: cable.database_url for name, cable in self.cables.items()}
        environments = [*([environment] * (count - 1)), environment | by_cable]
        self.of: Mapping[str, Sequence[Server]] = {
            name: [Server(name, places[n][name], environments[n], folder / f"{name}-{n}.log") for n in range(count)]
            for name in NAMES
        }

    @property
    def servers(self) -> list[Server]:
        return [each for name in NAMES for each in self.of[name]]

    def start(self) -> None:
        """Returns when all are ready."""
        start(self.servers)

    def stop(self) -> None:
        for cable in self.cables.values():
            cable.plug_in()
        stop(self.servers)
        for cable in self.cables.values():
            cable.close()

    def connect(self, timeout: float = DEFAULT_TIMEOUT, interceptors: Sequence[Interceptor] = ()) -> Suite:
        """A client that calls all of them in turn."""
        return connect(*self.addresses.values(), timeout=timeout, interceptors=interceptors)
