"""What a channel does to each call before gRPC gets it, the same for the synchronous and the asyncio client.

What depends on the method alone is read from its contract once, when a stub is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from handfast.client.arguments import check_call_timeout
from handfast.client.errors import DeadlineExceeded
from handfast.client.propagation import CALLER_KEY, CURRENT, REQUEST_ID_KEY, TRACEPARENT_KEY
from handfast.client.transaction_metadata import TRANSACTION_ID

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

Serializer: TypeAlias = Callable[[Any], bytes] | None


class Outgoing(NamedTuple):
    """One call as it goes out: `timeout` in seconds, and whether it may be sent again."""

    request: Any
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    request_id: str
    retry: bool


@dataclass(frozen=True, slots=True)
class Method:
    """What a contract says of a method; of one without a contract in this process, nothing is assumed.

    `default_timeout` in seconds is for calls that give none; None leaves them without one. `request_class` is what a
    generated stub sends; None where the caller serializes requests by other means, so they can be anything.
    """

    name: str
    idempotent: bool
    takes_request_id: bool
    default_timeout: float | None
    request_class: type[Message] | None = None

    @classmethod
    def find(cls, path: str, default_timeout: float | None, serializer: Serializer) -> Method:
        """The method that gRPC calls `path`, such as `/handfast.users.v1.UserService/GetUser`."""
        # Imported only now, here and in `errors`: whoever has a stub has loaded protobuf with it.
        from google.protobuf.descriptor_pb2 import MethodOptions
        from google.protobuf.message_factory import GetMessageClass

        name = name_of(path)
        descriptor = find_contract(path)
        if descriptor is None:
            return cls(name, idempotent=False, takes_request_id=False, default_timeout=default_timeout)
        contract_class = GetMessageClass(descriptor.input_type)
        request_class = contract_class if serializer == contract_class.SerializeToString else None
        level = descriptor.GetOptions().idempotency_level
        # A read needs none; where its request has such a field (GetTransaction), it asks for somebody else's.
        takes_request_id = (
            request_class is not None and level != MethodOptions.NO_SIDE_EFFECTS and _has_request_id(descriptor)
        )
        idempotent = takes_request_id or level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
        return cls(name, idempotent, takes_request_id, default_timeout, request_class)

    def outgoing(self, request: Any, timeout: float | None, given: tuple[tuple[str, str | bytes], ...]) -> Outgoing:
        """The call to make, with the metadata that is `given`. Raises TypeError or ValueError on another request or
        timeout than it can have, and DeadlineExceeded where no time is left, be it the caller's or that of the call
        being served."""
        if self.request_class is not None:
            check_request(self.name, self.request_class, request)
        keys = dict(given)
        propagated = CURRENT.get()

        request_id = keys.get(REQUEST_ID_KEY)
        if request_id is None:
            request_id = propagated.request_id or new_uuid()
            given += ((REQUEST_ID_KEY, request_id),)
        if propagated.traceparent is not None and TRACEPARENT_KEY not in keys:
            given += ((TRACEPARENT_KEY, propagated.traceparent),)
        if propagated.caller is not None and CALLER_KEY not in keys:
            given += ((CALLER_KEY, propagated.caller),)

        timeout = self.default_timeout if timeout is None else check_call_timeout(timeout)
        remaining = propagated.remaining()
        if remaining is not None:
            timeout = remaining if timeout is None else min(timeout, remaining)
        if timeout is not None and timeout <= 0:
            raise DeadlineExceeded("No time is left for this call", request_id=str(request_id))

        # A staged call is identified by the number of its operation, and refuses a request id.
        staged = TRANSACTION_ID in keys
        if self.takes_request_id and not staged and not request.request_id:
            identified = type(request)()
            identified.CopyFrom(request)
            identified.request_id = new_uuid()
            request = identified
        return Outgoing(request, timeout, given, str(request_id), retry=self.idempotent or staged)


# There is no one request to fill in, and the messages already sent cannot be sent again.
CLIENT_STREAMING = Method("", idempotent=False, takes_request_id=False, default_timeout=None)


def name_of(path: str) -> str:
    """`GetUser` for the method that gRPC calls `/handfast.users.v1.UserService/GetUser`."""
    return path.rpartition("/")[2]


def find_contract(path: str) -> MethodDescriptor | None:
    """Of the method that gRPC calls `path`; None where it has no contract in this process."""
    from google.protobuf import descriptor_pool

    try:
        return descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
    except KeyError:
        return None


def check_request(method_name: str, request_class: type[Message], request: Any) -> None:
    """Raises TypeError where the request is none of that class."""
    if not isinstance(request, request_class):
        takes, given_type = request_class.DESCRIPTOR.full_name, type(request).__name__
        raise TypeError(f"request: {method_name} takes a {takes}, not {given_type}")


def new_uuid() -> str:
    """A random UUID (RFC 9562, version 4), for a quarter of what `uuid.uuid4` costs, and without its import."""
    digits = os.urandom(16).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"
    )


def _has_request_id(descriptor: MethodDescriptor) -> bool:
    field = descriptor.input_type.fields_by_name.get("request_id")
    return field is not None and field.default_value == ""  # a single string; all versions of protobuf know this
