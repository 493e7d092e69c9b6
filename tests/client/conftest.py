"""Fixtures of the client's tests; backend.py has what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handfast.client import channel
from handfast.users.v1 import users_pb2_grpc

from .backend import Backend, serve
from .caller import WAYS, Caller, Opener


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    server = serve(backend)
    yield backend
    server.stop(0).wait()


@pytest.fixture
def users(backend: Backend) -> Iterator[users_pb2_grpc.UserServiceStub]:
    with channel(backend.address) as opened:
        yield users_pb2_grpc.UserServiceStub(opened)


@pytest.fixture(params=WAYS)
def caller(request: pytest.FixtureRequest) -> Iterator[Opener]:
    opened: list[Caller] = []

    def open_caller(address: str, **options: Any) -> Caller:
        opened.append(Caller(request.param, address, **options))
        return opened[-1]

    yield open_caller
    for each in opened:
        each.close()
