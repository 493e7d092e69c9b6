"""Runs the tour on a suite that answers, or on one that is started for it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import click
from grpc_health.v1 import health_pb2

from handfast.client import ServiceError, channel, connect
from handfast.client.security import environment
from handfast.demo.tour import DemoError, tour

_SERVICES = {
    "users": "handfast.users.v1.UserService",
    "preferences": "handfast.preferences.v1.PreferencesService",
    "accounts": "handfast.accounts.v1.AccountService",
}
_HEALTH_TIMEOUT = 5.0  # seconds


def show(
    addresses: Mapping[str, str], start_suite: Callable[[], AbstractContextManager[Mapping[str, str]]] | None
) -> None:
    """Prints the tour on the suite whose servers (`users`, `preferences`, `accounts`) are at `addresses`, HOST:PORT.
    Where one of them does not answer, or `addresses` is empty, on the suite at the addresses that `start_suite` gives,
    which ends with the tour.

    Raises DemoError where a server does not answer and `start_suite` is None, and where a call fails that should not.
    For a process's main thread: SIGTERM and SIGHUP end it as Ctrl-C does, so that nothing of the demo stays behind.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) has it
            signal.signal(number, _exit)
    try:
        silent = [f"{server} at {address}" for server, address in addresses.items() if not _serves(server, address)]
    except ValueError as error:  # of the variables with certificates and a token
        raise DemoError(str(error)) from error
    if silent and start_suite is None:
        raise DemoError(f"no answer from {', '.join(silent)}")
    suite_at: AbstractContextManager[Mapping[str, str]] = contextlib.nullcontext(addresses)
    if silent:
        click.echo("No suite answers at the addresses that are set: starting one in a temporary folder.")
    elif not addresses:
        click.echo("Starting a suite that takes TLS with certificates, and tokens, in a temporary folder.")
    if start_suite is not None and (silent or not addresses):
        suite_at = start_suite()
    with suite_at as places:
        click.echo("Suite: " + ", ".join(f"{server} {address}" for server, address in places.items()))
        with connect(places["users"], places["preferences"], places["accounts"]) as suite:
            try:
                tour(suite)
            except ServiceError as error:
                raise DemoError(str(error)) from error


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def _serves(server: str, address: str) -> bool:
    with channel(address, tls=environment.tls(), token=environment.token(), timeout=_HEALTH_TIMEOUT) as to_server:
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
