"""Making calls that are refused, and several calls at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
import pytest

from handfast.client import ServiceError

Request = TypeVar("Request")
Reply = TypeVar("Reply")


def refusal(method: Callable[[Request], object], request: Request) -> ServiceError:
    """The error of a call that has to fail."""
    with pytest.raises(ServiceError) as caught:
        method(request)
    return caught.value


def fields_at_fault(method: Callable[[Request], object], request: Request) -> list[str]:
    """The paths that a call is refused for, one for each violation, in the order of the alphabet."""
    error = refusal(method, request)
    assert (error.status, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"), error
    assert all(violation.description for violation in error.violations)
    assert not error.retryable
    return sorted(violation.field for violation in error.violations)


def all_at_once(
    method: Callable[[Request], Reply], requests: Sequence[Request]
) -> tuple[list[Reply], list[ServiceError]]:
    """Makes each call in a thread of its own, all at the same time: the replies, and the errors of the others. A call
    that is told to come again does so, as one may be that waited long for the lock of another.
    """
    barrier = threading.Barrier(len(requests))

    def call(request: Request) -> Reply | ServiceError:
        barrier.wait()
        while True:
            try:
                return method(request)
            except ServiceError as error:
                if error.retry_after is None:
                    return error
                time.sleep(error.retry_after)

    with ThreadPoolExecutor(len(requests)) as threads:
        outcomes = list(threads.map(call, requests))
    errors = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    return [outcome for outcome in outcomes if not isinstance(outcome, ServiceError)], errors


def bare_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """One that tries nothing again, so that what a server says is seen. By TLS with `credentials`."""
    options = (("grpc.enable_retries", 0),)
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)
