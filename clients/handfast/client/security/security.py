"""What secures the channels of one client: what each call carries, and which calls are made once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeAlias

import grpc

from handfast.client.addresses import is_on_this_machine, is_socket
from handfast.client.failed_call import NotSent
from handfast.client.security.tls import TLS, TLSFiles
from handfast.client.security.tokens import KEY, AsyncToken, Entry, NoToken, TokenSource

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


_TWO_TOKENS = "cannot be given on a channel with a token, as two would be sent"


class Security:
    """Files and token of one client, for all its channels. Raises TypeError or ValueError, naming the argument, on what
    cannot be used."""

    def __init__(self, tls: TLS | None, token: AsyncToken | None, may_be_async: bool) -> None:
        if not isinstance(tls, TLS | None):
            raise TypeError(f"tls: must be handfast.client.TLS, not {type(tls).__name__}")
        self.tls = tls
        self._files = None if tls is None else TLSFiles(tls)
        self._token = None if token is None else TokenSource(token, may_be_async)

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

    def given(
        self, metadata: Iterable[tuple[str, str | bytes]] | None, credentials: grpc.CallCredentials | None
    ) -> Metadata:
        """The metadata of a call without the token. Raises ValueError where the call would have two tokens."""
        given = tuple(metadata or ())
        if self._token is not None:
            if credentials is not None:
                raise ValueError(f"credentials: {_TWO_TOKENS}")
            for key, _ in given:
                if key == KEY:
                    raise ValueError(f"metadata: {KEY!r}: {_TWO_TOKENS}")
        return given

    def token(self) -> Entry | Future[Entry] | None:
        """What a call that goes out now carries besides, and is to wait for, as `TokenSource.get` has it.

        It goes as metadata, and not as gRPC's call credentials. Of those that are in Python gRPC frees some in a thread
        that needs the interpreter for that; where another one closes the channel meanwhile, the process freezes: seen
        with grpcio 1.85.1. And they have a thread for each call, which costs as much as the call.
        """
        return None if self._token is None else self._token.get()

    def can_change(self) -> bool:
        """Whether a call that was refused may find another token or other certificates."""
        return self._files is not None or (self._token is not None and self._token.can_change)

    def has_changed(
        self, status: grpc.StatusCode, carried: Entry | None, channel_credentials: grpc.ChannelCredentials
    ) -> bool:
        """Whether a call that `carried` this token and ended with `status`, on a channel with these credentials, makes
        sense once more: with another token, or by other certificates."""
        if status is grpc.StatusCode.UNAUTHENTICATED and self._token is not None:
            return self._token.refused(carried)
        if status is grpc.StatusCode.UNAVAILABLE and self._files is not None:
            self._files.check()
            return self._files.credentials() is not channel_credentials
        return False


def answer(asking: Future[Entry]) -> Entry:
    """What a call carries that has waited for it, as long as it could. Raises NotSent where it cannot be sent."""
    if not asking.done():
        raise NotSent(grpc.StatusCode.DEADLINE_EXCEEDED, "token: its function has not returned in the time of the call")
    try:
        return asking.result()
    except NoToken as error:
        raise NotSent(grpc.StatusCode.UNAUTHENTICATED, str(error)) from error.__cause__
