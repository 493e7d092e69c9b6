"""How gRPC itself is set up: load balancing, health checks, reconnecting, signs of life, proxies, retries.

gRPC's own retries (https://github.com/grpc/proposal/blob/master/A6-client-retries.md) serve blocking calls,
futures and asyncio alike, within the call's deadline, and tell the server (`grpc-previous-rpc-attempts`).
They are configured for a channel, before it is known which services will be called on it, so each channel of
this package has two gRPC channels: one retries all that is called on it, the other nothing, and the contract
says for each method which one it gets. A team's own service is thereby treated the same as ours. To one
server the two share their connection, as gRPC does for all channels with the same address. Where there may be
several, so that gRPC watches their health, none is shared: of two channels that begin a watch on one connection
in the same moment, grpcio crashes the process (seen with 1.85).

gRPC tries again only while nothing but a status has come back: a server that sends initial metadata before it
fails has begun to answer. What a service says in RetryInfo is left to the caller.
"""

from __future__ import annotations

import json
from typing import Any

from handfast.client.addresses import is_one_server
from handfast.client.proxy import may_go_by_proxy

MAX_ATTEMPTS = 5  # the most that gRPC makes: with the pauses between them, more than a restart takes
FIRST_PAUSE = 0.1
"""Seconds between the first two attempts. Each further pause is three times as long, up to the longest, and each is
varied by 20 %, so that callers do not come back in step."""
LONGEST_PAUSE = 2.0

_ROUND_ROBIN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_HEALTH: dict[str, Any] = {"healthCheckConfig": {"serviceName": ""}}
"""Has gRPC watch the health of each server, once for each connection, and call none that is not SERVING
(https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md). The empty name is the server as a
whole; one that has no health service is called all the same."""


DEFAULT_KEEPALIVE = 10.0
"""Seconds without a word from the server after which it is asked for a sign of life, by an HTTP/2 PING, and that its
answer may take. Then the connection is given up, and its calls end as UNAVAILABLE
(https://github.com/grpc/grpc/blob/master/doc/keepalive.md)."""
_KEEPALIVE_OF_REPLICAS = 1.0
_MAX_PAUSE, _MAX_PAUSE_OF_REPLICAS = 10.0, 1.0
"""Seconds between two attempts to connect to a server that cannot be reached: one of several that is back is called
again before the next is restarted."""

Options = tuple[tuple[str, str | int], ...]


def keepalive_on_chassis(address: str) -> float:
    """As `DEFAULT_KEEPALIVE`, for servers on the chassis, which allow it. Where there may be several, a call that meets
    a silent one is made again on another after two seconds, well before its deadline. A connection that carries calls
    is not asked; a server pays 2 % of a processor for 1000 that rest (measured)."""
    return DEFAULT_KEEPALIVE if is_one_server(address) else _KEEPALIVE_OF_REPLICAS


def retrying(address: str, server_name: str | None = None, keepalive_s: float = DEFAULT_KEEPALIVE) -> Options:
    """The options of a gRPC channel that tries all its calls again. `server_name`, with or without a port, is what the
    certificates of servers are to name, else that is the host of the target."""
    policy = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": f"{FIRST_PAUSE}s",
        "maxBackoff": f"{LONGEST_PAUSE}s",
        "backoffMultiplier": 3,
        # A server that stops cancels what comes in that moment. What the caller cancels is not tried again.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    every_method = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    common = _common(address, server_name, keepalive_s)
    return (*common, ("grpc.service_config", json.dumps(_balancing(address) | every_method)))


def plain(address: str, server_name: str | None = None, keepalive_s: float = DEFAULT_KEEPALIVE) -> Options:
    """The options of a gRPC channel that tries each call once."""
    return (*_common(address, server_name, keepalive_s), ("grpc.service_config", json.dumps(_balancing(address))))


def _balancing(address: str) -> dict[str, Any]:
    """Without another server to call, the answer of one that is not SERVING says more than gRPC could."""
    return _ROUND_ROBIN if is_one_server(address) else _ROUND_ROBIN | _HEALTH


def _common(address: str, server_name: str | None, keepalive_s: float) -> Options:
    max_pause = _MAX_PAUSE if is_one_server(address) else _MAX_PAUSE_OF_REPLICAS
    keepalive_ms = int(keepalive_s * 1000)
    return (
        ("grpc.use_local_subchannel_pool", 0 if is_one_server(address) else 1),
        # Reconnect while a call still has attempts left: by default gRPC waits a second, and fails them all.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", int(max_pause * 1000)),
        # By default gRPC looks a name up at most every 30 seconds, when a connection breaks.
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        # A request is kept for its retries up to this size; the default would exclude the large ones.
        ("grpc.per_rpc_retry_buffer_size", 4 * 1024 * 1024),
        # Without calls, too, so that the first call after a pause does not have to find out, and as often as it takes:
        # by default gRPC stops after two.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The first is for what the kernel sends (TCP_USER_TIMEOUT); the answer to a PING has only the second.
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),
        # By default gRPC asks the proxy for what is on this machine, and for the addresses that a name stands for.
        ("grpc.enable_http_proxy", int(may_go_by_proxy(address))),
        # What the certificates of servers are to name; where gRPC gets IP addresses for a name, it would take those.
        *(() if server_name is None else (("grpc.default_authority", server_name),)),
    )
