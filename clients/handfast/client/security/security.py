"""What secures the channels of one client: what each call carries, and which calls are made once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from handfast.client.addresses import is_on_this_machine, is_socket
from handfast.client.arguments import check_credentials
from handfast.client.security.tls import TLS, TLSFiles
from handfast.client.security.tokens import KEY, Asking, Entry, Token, TokenSource

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """What one call takes along: the token in its metadata, or credentials of gRPC that ask for it."""

    metadata: Metadata
    credentials: grpc.CallCredentials | None
    entry: Entry | None = None
    asking: Asking | None = None

    @property
    def token(self) -> Entry | None:
        return self.entry if self.asking is None else self.asking.entry


class Security:
    """Files and token of one client, for all its channels. Raises TypeError or ValueError, naming the argument, on what
    cannot be used."""

    def __init__(self, tls: TLS | None, token: Token | None) -> None:
        if not isinstance(tls, TLS | None):
            raise TypeError(f"tls: must be handfast.client.TLS, not {type(tls).__name__}")
        self._files = None if tls is None else TLSFiles(tls)
        self._token = None if token is None else TokenSource(token)

    def credentials_for(self, address: str) -> Callable[[], grpc.ChannelCredentials]:
        """What gives the credentials of a channel to `address`, the same object until they change. Raises ValueError
        where a token would leave this machine in plain text: gRPC's local credentials see to it that none does.
        """
        if self._files is not None:
            return self._files.credentials
        if not is_on_this_machine(address):
            raise ValueError(
                f"token: is sent in plain text to this machine only, and {address} is elsewhere; give tls=TLS(...), too"
            )
        kind = grpc.LocalConnectionType.UDS if is_socket(address) else grpc.LocalConnectionType.LOCAL_TCP
        local = grpc.local_channel_credentials(kind)
        return lambda: local

    def carried(
        self,
        metadata: Iterable[tuple[str, str | bytes]] | None,
        credentials: grpc.CallCredentials | None,
        is_shown: bool = False,
    ) -> Carried:
        """What a call takes along that goes out now. Where its metadata `is_shown` to interceptors, the token is not in
        it. Raises ValueError where the call would have two tokens.

        A token that is ready goes as metadata, since gRPC starts a thread for each call with credentials of Python:
        that costs as much as the call.
        """
        given = tuple(metadata or ())
        if self._token is None:
            return Carried(given, credentials)
        if credentials is not None or any(key == KEY for key, _ in given):
            what = "credentials" if credentials is not None else f"metadata: {KEY!r}"
            raise ValueError(f"{what}: cannot be given on a channel with a token, as two would be sent")
        entry = None if is_shown else self._token.ready()
        if entry is not None:
            return Carried((*given, entry), None, entry)
        asking = Asking(self._token)
        return Carried(given, grpc.metadata_call_credentials(asking), asking=asking)

    def can_change(self) -> bool:
        """Whether a call that was refused may find another token or other certificates."""
        return self._files is not None or (self._token is not None and self._token.can_change)

    def has_changed(
        self, status: grpc.StatusCode, carried: Carried, channel_credentials: grpc.ChannelCredentials
    ) -> bool:
        """Whether a call that ended with `status`, on a channel with these credentials, makes sense once more: with
        another token, or by other certificates."""
        if status is grpc.StatusCode.UNAUTHENTICATED and self._token is not None:
            return self._token.refused(carried.token)
        if status is grpc.StatusCode.UNAVAILABLE and self._files is not None:
            self._files.check()
            return self._files.credentials() is not channel_credentials
        return False


def security_of(
    credentials: grpc.ChannelCredentials | None, tls: TLS | None, token: Token | None
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
    return Security(tls, token)


def security_of_suite(
    credentials: grpc.ChannelCredentials | None, tls: TLS | None, token: Token | None
) -> Security | grpc.ChannelCredentials | None:
    """What the caller has given, and where it is lacking what the environment names."""
    if credentials is None:
        from handfast.client.security import environment

        tls, token = tls or environment.tls(), environment.token() if token is None else token
    return security_of(credentials, tls, token)
