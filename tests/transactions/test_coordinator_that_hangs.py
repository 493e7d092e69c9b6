"""While the coordinator hangs, only what has a pending change waits for it, and not for long."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from handfast.client import Suite
from handfast.client.errors import service_error
from handfast.users.v1 import users_pb2 as pb
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.calls import bare_channel
from tests.cli.processes import Process, suite_up
from tests.eventually import PATIENCE, eventually
from tests.people import create_user
from tests.transactions.calls import Transaction

CALLERS = 32
"""At the same time: twice the threads of a server."""
READS = 20

Call = Callable[[UserServiceStub], object]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A suite whose coordinator may be stopped."""
    with suite_up(tmp_path_factory.mktemp("own"), {}) as process:
        yield process


@pytest.fixture(scope="module")
def suite(own: Process) -> Iterator[Suite]:
    with own.connect() as suite:
        yield suite


@pytest.fixture
def hot(suite: Suite) -> pb.User:
    """A user with a pending change, whose transaction is undecided."""
    user = create_user(suite)
    wanted = pb.User(user_id=user.user_id, email=f"new-{user.email}")
    Transaction(suite, timeout_seconds=300).stage("users", suite.users.UpdateUser, pb.UpdateUserRequest(user=wanted))
    return user


@contextlib.contextmanager
def hanging(own: Process) -> Iterator[None]:
    """The coordinator's process is stopped: connections to it stay open, and nothing is answered."""
    pid = own.servers()["accounts"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert eventually(lambda: states(pid) == {"T"}), "each of its threads stops a moment later"
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def states(pid: int) -> set[str]:
    """Of its threads, as /proc has them: T where one is stopped."""
    return {file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")}


def read(user: pb.User) -> Call:
    return lambda users: users.GetUser(pb.GetUserRequest(user_id=user.user_id), timeout=PATIENCE)


def write(user: pb.User) -> Call:
    return lambda users: users.UpdateUser(pb.UpdateUserRequest(user=user), timeout=PATIENCE)


def look_up(user: pb.User) -> Call:
    return lambda users: users.LookupUser(pb.LookupUserRequest(email=user.email), timeout=PATIENCE)


def batch(user: pb.User) -> Call:
    return lambda users: users.BatchGetUsers(pb.BatchGetUsersRequest(user_ids=[user.user_id]), timeout=PATIENCE)


def list_all(_: pb.User) -> Call:
    return lambda users: users.ListUsers(pb.ListUsersRequest(), timeout=PATIENCE)


@pytest.mark.parametrize("of", [read, write, look_up, batch, list_all])
def test_calls_that_meet_a_pending_change_keep_no_other_from_being_answered(
    own: Process, suite: Suite, hot: pb.User, of: Callable[[pb.User], Call]
) -> None:
    cold = create_user(suite)
    call = of(hot)
    done = threading.Event()
    refusals: list[grpc.RpcError] = []

    def meet(_: int) -> None:
        with bare_channel(own.addresses["users"]) as channel:
            while not done.is_set():
                try:
                    call(UserServiceStub(channel))
                except grpc.RpcError as error:
                    refusals.append(error)

    with hanging(own), bare_channel(own.addresses["users"]) as channel, ThreadPoolExecutor(CALLERS) as callers:
        meeting = [callers.submit(meet, n) for n in range(CALLERS)]
        try:
            assert eventually(lambda: refusals), "they are refused long before their deadline"
            for _ in range(READS):
                assert read(cold)(UserServiceStub(channel))
        finally:
            done.set()
        for each in meeting:
            each.result()
    errors = [service_error(refusal, "") for refusal in refusals]
    assert {(error.code(), error.reason) for error in errors} == {
        (grpc.StatusCode.UNAVAILABLE, "COORDINATOR_UNAVAILABLE")
    }
    assert all(error.retryable for error in errors)
    with bare_channel(own.addresses["users"]) as channel:
        assert eventually(lambda: answered(read(hot), UserServiceStub(channel)))


def answered(call: Call, users: UserServiceStub) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(call(users))
    return False
