"""The short form of `make fuzz`: a few examples of everything, on SQLite. A failure prints how to run it again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha import reflection_pb2

from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, UpdateUserResponse, User
from tests import http2
from tests.fuzz import attack, readback, refusals
from tests.fuzz.callers import ADMIN
from tests.fuzz.calls import Call
from tests.fuzz.methods import GUARDED, METHODS, SERVICES, Method
from tests.fuzz.run import command
from tests.fuzz.target import Target, target

EXAMPLES, INTRUSIONS = 13, 4
SEED = str(random.SystemRandom().randrange(10**6))

pytestmark = pytest.mark.timeout(600)  # to make a failing example small takes its time


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target("sqlite", tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.mark.parametrize("server", SERVICES)
def test_every_service_of_a_server_is_fuzzed(at: Target, server: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    outcome = at.send(server, Call(path, [request.SerializeToString()]))
    listed = reflection_pb2.ServerReflectionResponse.FromString(outcome.replies[0]).list_services_response.service
    assert {each.name for each in listed} == {service.full_name for service in SERVICES[server]}


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_method_answers_whatever_is_sent_as_its_contract_says(at: Target, method: Method) -> None:
    print(command("sqlite", EXAMPLES, SEED, str(method)))
    attack.request(at, method, EXAMPLES, SEED)


@pytest.mark.parametrize("method", GUARDED, ids=str)
def test_whoever_may_not_call_a_method_is_refused_and_changes_nothing(at: Target, method: Method) -> None:
    print(command("sqlite", INTRUSIONS, SEED, f"{method}:intruders"))
    attack.intruders(at, method, INTRUSIONS, SEED)


@pytest.mark.parametrize("server", SERVICES)
def test_methods_that_are_not_there_are_refused_by_any_name(at: Target, server: str) -> None:
    print(command("sqlite", EXAMPLES, SEED, f"{server}:path"))
    attack.path(at, server, EXAMPLES, SEED)


@pytest.mark.parametrize("server", SERVICES)
def test_headers_can_have_any_bytes(at: Target, server: str) -> None:
    print(command("sqlite", EXAMPLES, SEED, f"{server}:headers"))
    attack.headers(at, server, EXAMPLES, SEED)


def test_all_that_is_stored_can_be_read_afterwards(at: Target) -> None:
    at.check_data()


def test_callers_the_log_and_the_counters_agree_afterwards(at: Target) -> None:
    at.check_records()


def test_the_checks_notice_what_they_are_there_for(at: Target) -> None:
    request = UpdateUserRequest(user=User(user_id="fuzz-0", email="x"))
    call = Call("/handfast.users.v1.UserService/UpdateUser", [request.SerializeToString()], ADMIN.metadata)
    outcome = at.send("users", call)
    refusals.check(call, request, outcome)
    assert outcome.status is not None
    leaky = Status.FromString(outcome.status.SerializeToString())
    leaky.message += ' File "/x/y.py", line 1'
    twice = Status.FromString(outcome.status.SerializeToString())
    twice.details.append(twice.details[0])
    for wrong, about in (
        (replace(outcome, code=grpc.StatusCode.INTERNAL), "the status code"),
        (replace(outcome, status=None), "no details"),
        (replace(outcome, status=leaky, message=leaky.message), "leaks"),
        (replace(outcome, status=twice), "ErrorInfo"),
        (replace(outcome, request_id="other"), "another request id"),
    ):
        with pytest.raises(AssertionError, match=about):
            refusals.check(call, request, wrong)
    with pytest.raises(AssertionError, match=r"there is no field 'user\.email'"):
        refusals.check(call, GetUserRequest(), outcome)
    with pytest.raises(AssertionError, match="display_name"):
        readback.check(at.suite, UpdateUserRequest(user=User(display_name="a")), UpdateUserResponse())


def test_a_traceparent_can_have_any_bytes(at: Target) -> None:
    earlier = at.process.errors.stat().st_size
    authorization = str(ADMIN.metadata[0][1]).encode()
    headers = [(b"x-request-id", b"traced"), (b"traceparent", b"\xff"), (b"authorization", authorization)]
    path = "/handfast.accounts.v1.AccountService/GetAccount"
    http2.send(at.addresses["accounts"], path.encode(), b"\x0a\x03ada", headers)
    assert at.logged(since=earlier)["accounts", "traced", path] == ["NotFound"]
