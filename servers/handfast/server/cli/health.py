"""`handfast health`: asks one server whether it serves.

It is for probes: those of containers, and of whoever has no other client of gRPC's health service at hand
(https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
"""

from __future__ import annotations

from typing import Any

import click
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from handfast.client.addresses import check_address, hosts_of
from handfast.client.proxy import may_go_by_proxy
from handfast.client.security import environment
from handfast.client.security.tls import TLSFiles
from handfast.server.process.command import Failure

UNHEALTHY = 1
"""The exit status where a server does not serve or does not answer; Docker knows no other."""


def run(address: str, service: str, timeout_s: float) -> int:
    """Prints what the server says. Returns the exit status, and raises Failure for what cannot be asked."""
    try:
        check_address(address, setting="ADDRESS")
        channel = _channel(address)
    except ValueError as error:
        raise Failure(str(error)) from error
    with channel:
        stub: Any = HealthStub(channel)  # its types have no methods
        try:
            reply = stub.Check(HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            click.echo(f"handfast: health: {address}: {error.code().name}: {error.details()}", err=True)
            return UNHEALTHY
    click.echo(HealthCheckResponse.ServingStatus.Name(reply.status))
    return 0 if reply.status == HealthCheckResponse.SERVING else UNHEALTHY


def _channel(address: str) -> grpc.Channel:
    """One of gRPC's own: that of `handfast.client` calls no server that is not SERVING. Raises ValueError."""
    if len(hosts_of(address)) > 1:
        raise ValueError(f"ADDRESS: {address!r} is a list, and one server is asked at a time")
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", int(may_go_by_proxy(address)))]
    if (tls := environment.tls()) is None:
        return grpc.insecure_channel(address, options)
    if tls.server_name is not None:
        options.append(("grpc.default_authority", tls.server_name))
    return grpc.secure_channel(address, TLSFiles(tls).credentials(), options)
