"""Replies that are sent when there is news, without a thread that waits for it or for who reads them.

grpcio sends a reply in the thread that made it, which then waits until the caller has room for it. So a stream costs a
thread as long as it lasts, and with one thread for many streams a caller who does not read would hold up all others. A
method that is marked as pushing (`Method.pushes`) therefore hands its call over to an `Outlet`, and ends: nobody waits
any more. The outlet starts the operations that grpcio itself would start, and grpcio's polling thread tells when they
are done. None of this is public in grpcio.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc

from handfast.server.chassis.call import current

_TOKEN = "send_message"  # as grpcio calls the operation


class Outlet:
    """Where the replies of one call come out, from any thread. Made by its handler."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._event: Any = context._rpc_event  # type: ignore[attr-defined]
        self._state: Any = context._state  # type: ignore[attr-defined]
        self._call = current()
        self._call.pushed = True
        self._lock = threading.Lock()
        self._sending = False
        self._next: bytes | None = None
        self._ending = False
        self._call.send_initial_metadata()

    def send(self, reply: bytes) -> None:
        """Sends it as soon as the reply before it has been sent. Of replies that come until then only the newest is
        sent, so a caller that reads slowly misses some."""
        with self._lock:
            self._next = reply
        self._go_on()

    def end(self) -> None:
        """Ends the call with OK, once the last reply has been sent."""
        self._ending = True
        self._go_on()

    def _go_on(self) -> None:
        """Starts what comes next. While a reply is being sent, that is left to whoever learns that it was."""
        with self._lock:
            if self._sending:
                return
            reply, self._next = self._next, None
            self._sending = reply is not None or self._ending
        if reply is not None:
            self._start(reply)
        elif self._sending:
            self._finish()

    def _start(self, reply: bytes) -> None:
        with self._state.condition:
            if not _server._is_rpc_state_active(self._state):
                return  # the caller has left
            operation = cygrpc.SendMessageOperation(reply, 0)
            self._event.call.start_server_batch((operation,), self._sent)
            self._state.due.add(_TOKEN)

    def _sent(self, _event: object) -> Any:
        """On grpcio's polling thread. What it returns tells grpcio whether the call is over."""
        with self._state.condition:
            finished = _server._possibly_finish_call(self._state, _TOKEN)
        self._call.sent += 1
        self._sending = False
        self._go_on()
        return finished

    def _finish(self) -> None:
        with self._state.condition:
            if not _server._is_rpc_state_active(self._state):
                return
        _server._status(self._event, self._state, None)
