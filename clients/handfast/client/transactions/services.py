"""The services that a suite calls, by name: their channels, and what the transactions of the suite share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from handfast.client.transactions.errors import suite_closed
from handfast.client.transactions.minted import MintedIds

if TYPE_CHECKING:
    from handfast.client.tracing.transaction import TransactionSpan
    from handfast.client.transactions.journal import Journal

Channel = TypeVar("Channel")
Stub = TypeVar("Stub")


class Services(Generic[Channel]):
    """`open_channel` opens the channel of a service that is not among `channels`, by its name. It raises ValueError or
    TypeError where it is not known where that service is. `tracing` says whether transactions are traced."""

    def __init__(
        self, channels: Mapping[str, Channel], open_channel: Callable[[str], Channel] | None, tracing: bool = False
    ) -> None:
        self._channels = dict(channels)
        self._open_channel = open_channel
        self.tracing = tracing
        self._making = threading.RLock()
        """Held while a channel is opened or a stub made, neither of which is done once the suite is closed: grpcio
        crashes the process where a method is registered on a closed channel."""
        self.is_closed = False
        self._methods: dict[tuple[str, str], Any] = {}
        self._lock_services: dict[str, Any] = {}
        self.ids = MintedIds()
        self._open: WeakValueDictionary[int, Any] = WeakValueDictionary()
        """The transactions whose block is not left, by `id()`. Whoever takes one out ends it, and nobody else does. One
        that its caller has lost is not kept."""
        self.background: set[Any] = set()
        """Tasks that roll back, of callers who cannot wait for them."""

    def channel(self, name: str) -> Channel:
        """Raises TransactionMisuse where the suite is closed."""
        with self._making:
            self._check_open()
            if name not in self._channels:
                if self._open_channel is None:
                    raise ValueError(f"{name}: this suite knows no such service, only {', '.join(self._channels)}")
                self._channels[name] = self._open_channel(name)
            return self._channels[name]

    def stub(self, stub_class: Callable[[Channel], Stub], name: str) -> Stub:
        """A stub for calls outside of transactions. Raises ValueError where the suite is closed, as gRPC does for calls
        on a closed channel."""
        with self._making:
            if self.is_closed:
                raise ValueError(f"{name}: the suite is closed, and makes no stubs any more")
            return stub_class(self.channel(name))

    def begin_span(self, journal: Journal) -> TransactionSpan | None:
        """The span of a transaction; None where those are not traced."""
        if not self.tracing:
            return None
        from handfast.client.tracing.transaction import TransactionSpan

        span = TransactionSpan()
        journal.traceparent = span.traceparent or journal.traceparent
        return span

    @contextmanager
    def ending(self, span: TransactionSpan | None, journal: Journal, error: BaseException | None) -> Iterator[None]:
        """In this block a transaction ends, and with it its span: by what the block raises, or else by `error`, which
        ended the transaction's own block."""

        def end(by: BaseException | None) -> None:
            if span is not None:
                span.end(by, journal.id, journal.outcome)

        try:
            yield
        except BaseException as raised:
            end(raised)
            raise
        end(error)

    def add_open(self, transaction: Any) -> None:
        """Raises TransactionMisuse where the suite is closed."""
        with self._making:
            self._check_open()
            self._open[id(transaction)] = transaction

    def take_open(self, transaction: Any) -> bool:
        """Whether it was open, and is now for the caller to end. Safe for threads: one call of a dictionary does it."""
        return self._open.pop(id(transaction), None) is not None

    def close(self) -> list[Any]:
        """From now on no channel, stub or transaction is added; the channels are left for the caller to close. Returns
        the transactions that are open."""
        with self._making:
            self.is_closed = True
        return [transaction for each in self._open.valuerefs() if (transaction := each()) is not None]

    def opened(self) -> list[Channel]:
        return list(self._channels.values())

    def method(self, name: str, path: str, *arguments: Any, **named: Any) -> Any:
        """What a stub on the service's channel has for the method that gRPC calls `path`. It is made once, though each
        transaction has stubs of its own. Raises TransactionMisuse where the suite is closed before it is made."""
        if (name, path) not in self._methods:
            with self._making:
                channel: Any = self.channel(name)
                self._methods[name, path] = channel.unary_unary(path, *arguments, **named)
        return self._methods[name, path]

    def lock_service(self, name: str) -> Any:
        """A stub of the LockService of a participant. Raises as `method` does."""
        if name not in self._lock_services:
            from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

            with self._making:
                channel: Any = self.channel(name)
                self._lock_services[name] = LockServiceStub(channel)
        return self._lock_services[name]

    def _check_open(self) -> None:
        if self.is_closed:
            raise suite_closed()
