"""The channels of gRPC behind one of this package, which make way for others when its address stands for other servers.

A new generation has connections of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

import grpc

from handfast.client import options
from handfast.client.addresses import hosts_of

if TYPE_CHECKING:
    from handfast.client.security.security import Security


class _Called(Protocol):
    def go_by(self, generation: Generation) -> None: ...


Called = TypeVar("Called", bound=_Called)
Make: TypeAlias = Callable[[Any], Any]
"""Makes a method of a stub on a channel of gRPC."""


class Generation:
    """The two channels that `options` explains, to one target. `open_channel` takes the target, the options and whether
    calls are repeated.

    When another generation takes its place, calls go on on this one. They hold it by the method that made them; when
    the last of them is over nobody does, and then gRPC closes it.
    """

    def __init__(
        self,
        target: str,
        address: str,
        server_name: str | None,
        keepalive_s: float,
        open_channel: Callable[[str, options.Options, bool], Any],
    ) -> None:
        self.target = target
        self.retrying = open_channel(target, options.retrying(address, server_name, keepalive_s), True)
        self.plain = open_channel(target, options.plain(address, server_name, keepalive_s), False)

    def method(self, make: Make, channel: Any) -> Any:
        """What `make` makes on one of the channels."""
        made = make(channel)
        made.generation = self
        return made


class Generations:
    """The present one, what is called on it, and those before it that still have calls in flight."""

    def __init__(self, open_generation: Callable[[str], Generation], target: str) -> None:
        self._open_generation = open_generation
        self.present = open_generation(target)
        self._alive = WeakSet({self.present})
        self._callables: WeakSet[Any] = WeakSet()

    def add(self, called: Called) -> Called:
        """From now on it is told by `go_by` which generation to call on."""
        called.go_by(self.present)
        self._callables.add(called)
        return called

    def move(self, target: str) -> bool:
        """Whether that is another target than the present one."""
        if target == self.present.target:
            return False
        self.present = self._open_generation(target)
        self._alive.add(self.present)
        for each in tuple(self._callables):
            each.go_by(self.present)
        return True

    def channels(self) -> list[Any]:
        return [channel for each in tuple(self._alive) for channel in (each.retrying, each.plain)]


def server_name(address: str, security: Security | grpc.ChannelCredentials | None) -> str | None:
    """What the certificates of all servers at `address` are to name; None where gRPC finds out by itself. Raises
    ValueError where there is no one such name, or a token would leave this machine in plain text."""
    tls = None
    if security is not None and not isinstance(security, grpc.ChannelCredentials):
        security.credentials_for(address)
        tls = security.tls
    if tls is not None and tls.server_name is not None:
        return tls.server_name
    hosts = hosts_of(address)
    names = {each.name.lower().rstrip(".") for each in hosts}
    if len(names) > 1 and isinstance(security, grpc.ChannelCredentials):
        raise ValueError(
            f"credentials: do not go with a list of several hosts, such as {address}, as they do not say which name "
            "all certificates have; give tls=TLS(server_name=…), or one name that stands for all hosts"
        )
    if len(names) > 1 and tls is not None:
        rule = f"is needed for {address}: the certificates of its several hosts have to have one name"
        raise ValueError(f"{tls.setting('server_name')}: {rule}")
    return str(hosts[0]) if hosts else None
