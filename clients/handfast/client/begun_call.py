"""A call that its caller waits for, begun beside others.

For `stub.Method.future(...)` gRPC takes what comes back in a thread of the channel, which it starts anew whenever the
channel had no such call for a moment: that costs as much as the call. What is begun here has no thread. What comes back
is taken by who waits for it, in `result`, so it suits who begins several calls and then waits for each of them.
"""

from __future__ import annotations

from typing import Any

import grpc

from handfast.client.errors import Internal, service_error


class BegunCall:
    """`call` is gRPC's own call, of a channel with the option `SingleThreadedUnaryStream`: a stream of one response."""

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._request_id = request_id

    def result(self) -> Any:
        """Waits for the response, and returns it. To be called once.

        Raises ServiceError, and grpc.FutureCancelledError after `cancel()`.
        """
        try:
            responses = list(self._call)
        except grpc.RpcError as error:
            self._take_what_is_left()
            if self._call.cancelled():
                raise grpc.FutureCancelledError from None
            raise service_error(error, self._request_id) from error
        self._take_what_is_left()
        if len(responses) != 1:
            raise Internal(f"The call has {len(responses)} responses, not one", request_id=self._request_id)
        return responses[0]

    def cancel(self) -> None:
        """From any thread, also while another one waits."""
        self._call.cancel()

    def trailing_metadata(self) -> Any:
        """After `result`."""
        return self._call.trailing_metadata()

    def __del__(self) -> None:
        self._call.cancel()  # nobody waited for it
        self._take_what_is_left()

    def _take_what_is_left(self) -> None:
        # Until all its events are taken, grpcio keeps a call that has failed, and 20 KiB with it, for as long as the
        # channel lives. It has no public way to take them.
        while self._call._state.due:
            self._call._consume_next_event()


def begin(method: Any, request: Any, **options: Any) -> Any:
    """Begins a call of `method`, of a stub on a synchronous channel of this package; `options` are `timeout` in seconds
    and `metadata`. Returns a BegunCall; on any other channel, and where client interceptors want to see the call, the
    future that `method.future` gives, which has all of its methods. Raises as `future` does.
    """
    begun: BegunCall | None = method.begin(request, **options) if hasattr(method, "begin") else None
    return begun or method.future(request, **options)
