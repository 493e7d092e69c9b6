"""How long a connection lasts, and how each end learns that the other is gone.

A connection can go silent without an end: a machine that vanished, a NAT or a balancer that forgot it. Then only asking
for a sign of life, by an HTTP/2 PING, tells. Both ends do so: clients find another connection, and servers let go of
what they hold for callers who are not there any more. A server allows clients to ask, which by default gRPC takes for
abuse (https://github.com/grpc/grpc/blob/master/doc/keepalive.md).
"""

from __future__ import annotations

from handfast.server.process import open_files
from handfast.server.process.settings import ServerSettings

KEEPALIVE_TIME = 30.0
"""Seconds without a word from a client after which it is asked for a sign of life."""
KEEPALIVE_TIMEOUT = 10.0
"""Seconds that its answer may take."""
MIN_PING_INTERVAL = 0.5
"""Seconds that clients have to leave between two PINGs. That of this suite leaves one where it knows other replicas."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds in which a client has to say who it is, by TLS where the server has it, and what it speaks (HTTP/2's preface
and SETTINGS). gRPC gives it 120, for each of which it could hold another connection."""
_NEVER = 2**31 - 1
_OTHER_FILES = 256
_FILES_OF_A_THREAD = 4  # a connection to SQLite has three


def max_connections(settings: ServerSettings) -> int:
    """As many as the settings say, where this process may open the files for them and for all else that it has to."""
    others = _OTHER_FILES + _FILES_OF_A_THREAD * settings.threads
    return max(1, min(settings.max_connections, open_files.limit() - others))


def connection_options(settings: ServerSettings) -> tuple[tuple[str, int], ...]:
    """The options of a gRPC server for its connections."""
    timeout_ms = _ms(KEEPALIVE_TIMEOUT)
    return (
        ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE_TIMEOUT)),
        ("grpc.keepalive_time_ms", _ms(KEEPALIVE_TIME)),
        # The first is for what the kernel sends (TCP_USER_TIMEOUT); the answer to a PING has only the second.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),  # to both ends
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(MIN_PING_INTERVAL)),
        # Or a call could send the more before anybody reads it the more others send, also where it will be refused. One
        # whose request is read is given 1 MiB at a time all the same.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_allowed_incoming_connections", max_connections(settings)),
        # So that clients behind a balancer of connections find new servers, too (proposal A9 of gRPC).
        ("grpc.max_connection_age_ms", _ms(settings.max_connection_age) or _NEVER),
        ("grpc.max_connection_age_grace_ms", _ms(settings.max_connection_age_grace)),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
