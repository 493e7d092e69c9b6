"""What becomes of account calls where the coordinator's clock and those of the participants are apart."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import Aborted, FailedPrecondition, NotFound, Suite, connect
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.accounts.server import build
from handfast.server.chassis import clock
from handfast.server.chassis.server import Server
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.coordinator import coordinator
from handfast.users.v1.users_pb2 import DeleteUserRequest, GetUserRequest, User
from tests.people import new_email, new_id
from tests.transactions.calls import Transaction


class Skew:
    """By how many seconds the clock of this process is ahead."""

    seconds = 0.0


@pytest.fixture
def skew(monkeypatch: pytest.MonkeyPatch) -> Skew:
    skew = Skew()
    skewed = SimpleNamespace(time_ns=lambda: time.time_ns() + int(skew.seconds * 1e9))
    monkeypatch.setattr(clock, "time", skewed)
    return skew


@pytest.fixture
def suite(addresses: dict[str, str], skew: Skew, tmp_path: Path) -> Iterator[Suite]:
    """The shared users and preferences, with an accounts server in this process, by its clock."""
    settings = SuiteSettings(
        name="accounts",
        listen="127.0.0.1:0",
        database_url=sqlite_url(tmp_path / "transactions.sqlite3"),
        migrate=True,
        users_address=addresses["users"],
        preferences_address=addresses["preferences"],
        grace=0.5,
    )
    server: Server = build(settings)
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        yield stack.enter_context(connect(addresses["users"], addresses["preferences"], server.address))


def creation() -> CreateAccountRequest:
    return CreateAccountRequest(user=User(user_id=new_id(), email=new_email()), request_id=str(uuid.uuid4()))


@pytest.mark.parametrize(("ahead", "apart"), [(60, "behind"), (-60, "ahead of"), (-7200, "ahead of")])
def test_a_clock_that_is_wrong_is_named_and_all_is_well_once_it_is_right(
    suite: Suite, skew: Skew, ahead: float, apart: str
) -> None:
    request = creation()
    skew.seconds = ahead
    for _ in range(2):  # a repeat is told the same
        with pytest.raises(FailedPrecondition) as refused:
            suite.accounts.CreateAccount(request)
        error: Any = refused.value
        assert (error.reason, error.retryable) == ("CLOCK_SKEW", False)
        assert error.metadata["participant"] == "users"
        assert abs(float(error.metadata["ahead_seconds"]) + ahead) < 20  # of which a busy machine may take some
        assert f"The clock of users is {error.metadata['ahead_seconds'].lstrip('-')} s {apart} that of the" in str(
            error
        )
    with pytest.raises(NotFound):
        suite.users.GetUser(GetUserRequest(user_id=request.user.user_id))
    skew.seconds = 0
    suite.accounts.CreateAccount(creation())
    with pytest.raises(FailedPrecondition):  # the answer of its request id stands
        suite.accounts.CreateAccount(request)


def test_a_clock_that_is_a_little_ahead_is_not_blamed_for_a_call_that_took_its_time(
    suite: Suite, skew: Skew, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = creation()
    skew.seconds = -1.0
    with monkeypatch.context() as patch:
        patch.setattr(
            coordinator, "TIMEOUT_US", clock.MICROSECONDS_PER_SECOND // 2
        )  # what is left for a stage that is late
        with pytest.raises(Aborted) as refused:
            suite.accounts.CreateAccount(request)
    assert (refused.value.reason, refused.value.retryable) == ("TRANSACTION_ABORTED", True)
    suite.accounts.CreateAccount(request)


def test_a_call_that_runs_again_after_its_clock_was_set_back_comes_through(
    client: Suite, suite: Suite, skew: Skew, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = creation()
    client.accounts.CreateAccount(created)
    older = Transaction(client)
    older.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=created.user.user_id))

    def set_back(_pause: float) -> None:
        """Before the second attempt."""
        skew.seconds = -1.0
        older.rollback()

    monkeypatch.setattr(coordinator, "sleep", set_back)
    monkeypatch.setattr(coordinator, "TIMEOUT_US", 60 * clock.MICROSECONDS_PER_SECOND)
    request = UpdateUserAndPreferencesRequest(
        user=User(user_id=created.user.user_id, display_name="again"),
        user_update_mask=FieldMask(paths=["display_name"]),
        preferences=Preferences(values={"theme": Value(string_value="dark")}),
        preferences_update_mask=FieldMask(paths=["values.theme"]),
    )
    assert suite.accounts.UpdateUserAndPreferences(request).account.user.display_name == "again"
    assert skew.seconds == -1.0
