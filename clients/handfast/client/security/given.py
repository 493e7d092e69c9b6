"""Whether a client has TLS or a token: the rest of this package is loaded for those that have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc

from handfast.client.arguments import check_credentials

if TYPE_CHECKING:
    from handfast.client.security.security import Security
    from handfast.client.security.tls import TLS
    from handfast.client.security.tokens import AsyncToken

CA, CERTIFICATE, KEY, TOKEN_FILE = "HANDFAST_CA", "HANDFAST_CERTIFICATE", "HANDFAST_KEY", "HANDFAST_TOKEN_FILE"


def security_of(
    credentials: grpc.ChannelCredentials | None, tls: TLS | None, token: AsyncToken | None, may_be_async: bool = False
) -> Security | grpc.ChannelCredentials | None:
    """What the caller has given; None where nothing was."""
    check_credentials(credentials)
    if tls is None and token is None:
        return credentials
    if credentials is not None:
        given = "tls" if tls is not None else "token"
        raise ValueError(
            f"{given}: cannot be given beside credentials; a token can be part of them, "
            "by grpc.composite_channel_credentials"
        )
    from handfast.client.security.security import Security

    return Security(tls, token, may_be_async)


def security_of_suite(
    credentials: grpc.ChannelCredentials | None, tls: TLS | None, token: AsyncToken | None, may_be_async: bool = False
) -> Security | grpc.ChannelCredentials | None:
    """What the caller has given, and where it is lacking what the environment names."""
    if credentials is None and any(map(os.environ.get, (CA, CERTIFICATE, KEY, TOKEN_FILE))):
        from handfast.client.security import environment

        tls, token = tls or environment.tls(), environment.token() if token is None else token
    return security_of(credentials, tls, token, may_be_async)
