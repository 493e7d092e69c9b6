"""Callers that come again at once come no faster than they are refused. `test_overload.py` looks at it from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from handfast.server.chassis.pipeline import refusal
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from tests.eventually import PATIENCE, eventually

from .conftest import Failure, Running, StartServer


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(refusal, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.fixture
def full(start: StartServer, gate: threading.Event) -> Iterator[Running]:
    """A server that has all the calls that it takes."""
    running = start(threads=1, queue=1)

    def behavior(_request: Any, _context: Any) -> GetUserResponse:
        gate.wait(PATIENCE)
        return GetUserResponse()

    running.servicer.behavior = behavior
    calls = [running.stub.GetUser.future(GetUserRequest()) for _ in range(2)]
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="calls"}') == 2)
    yield running
    gate.set()
    assert [call.result(PATIENCE) for call in calls] == [GetUserResponse()] * 2


def refused(running: Running) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        running.stub.GetUser(GetUserRequest())
    failure = Failure(caught.value)
    assert failure.named_request_id == failure.request_id != ""
    return str(failure.info.reason)


def test_one_in_so_many_refusals_for_overload_waits(full: Running, pauses: list[float]) -> None:
    number = 3 * refusal._AT_ONCE
    assert {refused(full) for _ in range(number - 1)} == {"OVERLOADED"}
    assert pauses == [refusal._PAUSE] * 2
    refused(full)
    assert pauses == [refusal._PAUSE] * 3
    assert full.metric('handfast_calls_shed_total{pool="calls"}') == number


def test_who_is_sent_away_by_a_stop_does_not_wait(full: Running, pauses: list[float], gate: threading.Event) -> None:
    limiter = full.server._limiter
    stopping = threading.Thread(target=limiter.drain, args=(list(limiter.pools)[:-1], PATIENCE))
    stopping.start()
    assert eventually(lambda: limiter.draining)
    assert {refused(full) for _ in range(3 * refusal._AT_ONCE)} == {"SHUTTING_DOWN"}
    assert pauses == []
    gate.set()
    stopping.join(PATIENCE)
