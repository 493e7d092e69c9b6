"""`handfast demo`: the tour, on the suite that runs, or on one started for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from grpc_health.v1 import health_pb2

from handfast.client import ServiceError, channel, connect
from handfast.server.cli.addresses import on_this_machine, read_addresses
from handfast.server.cli.errors import CommandError
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import FIRST_PORT
from handfast.server.cli.supervisor import HANDFAST
from handfast.server.cli.tour import tour
from handfast.server.process.stopping import SUPERVISED

_SERVICES = {
    "users": "handfast.users.v1.UserService",
    "preferences": "handfast.preferences.v1.PreferencesService",
    "accounts": "handfast.accounts.v1.AccountService",
}
_HEALTH_TIMEOUT = 5.0


def run(flags: Mapping[str, Any]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) has it
            signal.signal(number, _exit)
    given = read_addresses("demo", flags)
    addresses = on_this_machine(FIRST_PORT) | given
    silent = [f"{server} at {address}" for server, address in addresses.items() if not _serves(server, address)]
    if silent and given:
        raise CommandError(f"no answer from {', '.join(silent)}")
    with _suite_of_our_own() if silent else contextlib.nullcontext(addresses) as places:
        click.echo("Suite: " + ", ".join(f"{server} {address}" for server, address in places.items()))
        with connect(places["users"], places["preferences"], places["accounts"]) as suite:
            try:
                tour(suite)
            except ServiceError as error:
                raise CommandError(str(error)) from error
    return 0


def _exit(number: int, _: object) -> None:
    """Ends as an exception does, so that what was made for the demo is taken away again."""
    sys.exit(128 + number)


def _serves(server: str, address: str) -> bool:
    with channel(address, timeout=_HEALTH_TIMEOUT) as to_server:
        check = to_server.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=_SERVICES[server]))
        except ServiceError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@contextlib.contextmanager
def _suite_of_our_own() -> Iterator[dict[str, str]]:
    """`handfast up` in a temporary folder, on ports that are free."""
    click.echo("No suite answers at the addresses that are set: starting one in a temporary folder.")
    # What the environment says about the user's own suite, its databases above all, is not for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HANDFAST_")}
    first_port = free_first_port()
    with tempfile.TemporaryDirectory(prefix="handfast-demo-") as folder:
        logs = Path(folder, "logs")
        with logs.open("w") as stderr:
            process = subprocess.Popen(
                [*HANDFAST, "up", "--data-dir", folder, "--first-port", str(first_port)],
                env={**environment, SUPERVISED: "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        assert process.stdin
        assert process.stdout
        try:
            if "ready\n" not in process.stdout:
                raise CommandError(f"the suite did not start:\n{logs.read_text()}")
            yield on_this_machine(first_port)
        finally:
            process.stdin.close()  # which asks it to stop; its folder goes when it has
            process.wait()
            process.stdout.close()
