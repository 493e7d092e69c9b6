"""How gRPC itself is set up: load balancing, reconnecting, retries.

gRPC's own retries (https://github.com/grpc/proposal/blob/master/A6-client-retries.md) serve blocking calls,
futures and asyncio alike, within the call's deadline, and tell the server (`grpc-previous-rpc-attempts`).
They are configured for a channel, before it is known which services will be called on it, so each channel of
this package has two gRPC channels: one retries all that is called on it, the other nothing, and the contract
says for each method which one it gets. A team's own service is thereby treated the same as ours. The two
share their connections, as gRPC does for all channels with the same address.

gRPC tries again only while nothing but a status has come back: a server that sends initial metadata before it
fails has begun to answer. What a service says in RetryInfo is left to the caller.
"""

from __future__ import annotations

import json
from typing import Any

MAX_ATTEMPTS = 5  # the most that gRPC makes: with the pauses between them, more than a restart takes

_ROUND_ROBIN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_RETRY_ALL: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],  # every method of every service
            "retryPolicy": {
                "maxAttempts": MAX_ATTEMPTS,
                "initialBackoff": "0.1s",  # each is varied by 20 %, so that callers do not come back in step
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_COMMON = (
    # Reconnect while a call still has attempts left: by default gRPC waits a second, and fails them all.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # A request is kept for its retries up to this size; the default would exclude the large ones.
    ("grpc.per_rpc_retry_buffer_size", 4 * 1024 * 1024),
)

Options = tuple[tuple[str, str | int], ...]
RETRYING: Options = (*_COMMON, ("grpc.service_config", json.dumps(_ROUND_ROBIN | _RETRY_ALL)))
PLAIN: Options = (*_COMMON, ("grpc.service_config", json.dumps(_ROUND_ROBIN)))
