"""How a server calls the other servers: by what its settings `--peer-…` say."""

from __future__ import annotations

from functools import partial

import grpc

from handfast.client import TLS, channel
from handfast.client.options import keepalive_on_chassis
from handfast.server.chassis.start_errors import StartError
from handfast.server.process.secrets import read_token
from handfast.server.process.settings import ServerSettings, flag


class PeerTLS(TLS):
    def setting(self, field: str) -> str:
        return flag(f"peer_{field}")


def peer_channel(settings: ServerSettings, address: str) -> grpc.Channel:
    """A channel to another server: by TLS where there is a CA for it, and with the token of a file where there is one.
    The files are read again when they change, the token's where it expires. Raises StartError where a token would leave
    this machine in plain text.
    """
    files = (settings.peer_ca, settings.peer_certificate or None, settings.peer_key or None)
    token = partial(read_token, settings.peer_token) if settings.peer_token else None
    try:
        tls = PeerTLS(*files, settings.peer_server_name or None) if settings.peer_ca else None
        return channel(
            address,
            tls=tls,
            token=token,
            keepalive_seconds=keepalive_on_chassis(address),
            tracing=settings.tracing,
        )
    except ValueError as error:
        raise StartError(f"cannot call {address} by the settings {flag('peer')}-…: {error}") from None
