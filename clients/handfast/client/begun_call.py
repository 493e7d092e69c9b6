"""A call that its caller waits for, begun beside others.

For `stub.Method.future(...)` gRPC takes what comes back in a thread of the channel, which it starts anew whenever the
channel had no such call for a moment: that costs as much as the call. What is begun here has no thread: it is the two
halves of what gRPC does for a call that blocks, which has one event only. Who waits for it, in `result`, takes that.

grpcio has no public way to that. Where a version of it has not what is looked for here, `.future` serves as well.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc

from handfast.client.errors import service_error
from handfast.client.methods import Outgoing

_grpc: Any = grpc  # whose private parts its stubs do not have


class BegunCall:
    """Begins a call of `method`, gRPC's own, on a channel without interceptors. Raises AttributeError or TypeError
    where this version of grpcio is another inside, ValueError where the channel is closed, and grpc.RpcError where the
    request cannot be serialized; nothing is sent then.
    """

    _ended = True  # until there is a call

    def __init__(self, method: Any, outgoing: Outgoing) -> None:
        inside = _grpc._channel
        self._request_id, self._made_by = outgoing.request_id, method  # which is held, as by a CallFuture
        self._cancelled = False
        self._taking = threading.Lock()
        self._deserializer = method._response_deserializer
        self._handle_event, self._end = inside._handle_event, inside._end_unary_response_blocking
        state, operations, deadline, error = method._prepare(
            outgoing.request, outgoing.timeout, outgoing.metadata, None, None
        )
        if state is None:
            raise error
        state.rpc_start_time = time.perf_counter()
        state.method, state.target = method._method.decode(), method._target.decode()
        self._state = state
        self._call = method._channel.segregated_call(
            inside.cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method._method,
            None,
            inside._determine_deadline(deadline),
            outgoing.metadata,
            None,
            ((operations, None),),
            method._context,
            method._registered_call_handle,
        )
        self._ended = False

    def result(self) -> Any:
        """Waits for the response, and returns it. To be called once.

        Raises ServiceError, and grpc.FutureCancelledError after `cancel()`.
        """
        self._take()
        if self._cancelled:  # though a response may have come before
            raise grpc.FutureCancelledError
        try:
            return self._end(self._state, self._call, False, None)
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error

    def cancel(self) -> None:
        """From any thread, also while another one waits. The call is over then."""
        if not self._ended:
            self._cancelled = True
            self._call.cancel(_grpc.StatusCode.CANCELLED.value[0], "Locally cancelled by application!")
            self._take()

    def initial_metadata(self) -> Any:
        """After `result`."""
        return self._state.initial_metadata

    def trailing_metadata(self) -> Any:
        """After `result`."""
        return self._state.trailing_metadata

    def __del__(self) -> None:
        # Nobody waited for it. Until its event is taken, grpcio keeps it for as long as the channel lives. Who can be
        # interrupted by Ctrl-C cancels instead: Python swallows what is raised here.
        self.cancel()

    def _take(self) -> None:
        with self._taking:
            if self._ended:
                return
            try:
                event = self._call.next_event()
            finally:
                self._ended = True  # where that is interrupted, too: gRPC gives up the call, and has no event for it
            self._handle_event(event, self._state, self._deserializer)


def begin(method: Any, request: Any, **options: Any) -> Any:
    """Begins a call of `method`, of any stub; `options` are `timeout` in seconds and `metadata`, a tuple that is sent
    without the checks of other calls. Returns what has `result()`, `cancel()` and `trailing_metadata()`: a BegunCall on
    a synchronous channel of this package, else the future that `method.future` gives. Raises as `future` does.
    """
    return getattr(method, "begin", method.future)(request, **options)
