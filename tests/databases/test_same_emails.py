"""The revision that tells by another rule which emails are the same, upon data that was written by the old one."""

# ruff: noqa: RUF001 (letters that look alike are what it is about)

from __future__ import annotations

import importlib
import json
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from structlog.testing import capture_logs

from handfast.client import NotFound, channel
from handfast.server.accounts import server as accounts
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions import wire
from handfast.server.users import resources, service, tables
from handfast.server.users.emails import email_claim
from handfast.server.users.server import SCHEMA, build
from handfast.transactions.v1 import transactions_pb2 as transactions
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.calls import refusal
from tests.cli.processes import start_process, stop_process
from tests.eventually import eventually

NOBODY = "127.0.0.1:9"
"""Where no coordinator listens."""


def old_rule(email: str) -> str:
    return "email:" + unicodedata.normalize("NFC", email.casefold())


class Users:
    """What a server of users is asked for."""

    def __init__(self, to: grpc.Channel) -> None:
        self.stub, self._participant = UserServiceStub(to), ParticipantServiceStub(to)

    def create(self, user_id: str, email: str, transaction: str = "") -> User:
        metadata = staged(transaction, 1) if transaction else ()
        request = CreateUserRequest(user=User(user_id=user_id, email=email))
        created: User = self.stub.CreateUser(request, metadata=metadata).user
        return created

    def change(self, user_id: str, email: str, transaction: str = "", number: int = 1) -> User:
        metadata = staged(transaction, number) if transaction else ()
        request = UpdateUserRequest(user=User(user_id=user_id, email=email))
        changed: User = self.stub.UpdateUser(request, metadata=metadata).user
        return changed

    def holder(self, email: str) -> str:
        """The id of the user who has the email; empty where nobody has."""
        try:
            found: User = self.stub.LookupUser(LookupUserRequest(email=email)).user
        except NotFound:
            return ""
        return found.user_id

    def why_not(self, user_id: str, email: str) -> str:
        """The reason for which such a user cannot be created."""
        request = CreateUserRequest(user=User(user_id=user_id, email=email))
        return refusal(self.stub.CreateUser, request).reason

    def finish(self, transaction: str, *, committed: int) -> None:
        """As the coordinator would: this many operations, or none where it was aborted."""
        state = transactions.TRANSACTION_STATE_COMMITTED if committed else transactions.TRANSACTION_STATE_ABORTED
        decision = transactions.Decision(transaction_id=transaction, state=state, operation_count=committed)
        request = transactions.FinishTransactionsRequest(decisions=[decision])
        (finished,) = self._participant.FinishTransactions(request).results
        assert finished.result == transactions.FINISH_RESULT_CONFIRMED


def staged(transaction: str, number: int) -> tuple[tuple[str, str], ...]:
    return wire.stage_metadata(transaction, number, now() + 60 * MICROSECONDS_PER_SECOND)


@contextmanager
def serving(url: str, coordinator: str = NOBODY) -> Iterator[Users]:
    settings = SuiteSettings(
        name="users", listen="127.0.0.1:0", database_url=url, migrate=True, accounts_address=coordinator, grace=0.5
    )
    server = build(settings)
    server.start()
    try:
        with channel(server.address) as to:
            yield Users(to)
    finally:
        server.stop()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[str]:
    """The address of one to whom all transactions are undecided."""
    url = sqlite_url(tmp_path / "transactions.sqlite3")
    server = accounts.build(
        SuiteSettings(name="accounts", listen="127.0.0.1:0", database_url=url, migrate=True, grace=0.5)
    )
    server.start()
    yield server.address
    server.stop()


Write = Callable[[Callable[[Users], None]], None]


@pytest.fixture
def by_the_old_rule(new_url: str, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Does something on a server that goes by the old rule, and leaves its database at the revision before."""

    def write(do: Callable[[Users], None]) -> None:
        with monkeypatch.context() as old:
            for module in (resources, service):
                old.setattr(module, "email_claim", old_rule)
            with serving(new_url) as users:
                do(users)
        later = importlib.import_module("handfast.server.users.migrations.versions.0004_read_locks")
        with (
            closing(Database(new_url)) as database,
            database.engine.begin() as connection,
            Operations.context(MigrationContext.configure(connection)),
        ):
            later.downgrade()
            connection.exec_driver_sql(f"UPDATE {SCHEMA.version_table} SET version_num = '0002'")

    return write


def upgraded(url: str) -> list[Any]:
    """Upgrades, and returns what that has logged; servers of other tests may log, too."""
    with closing(Database(url)) as database, capture_logs([mark_thread]) as logged:
        upgrade(database, SCHEMA)
    return [line for line in logged if line.pop("thread") == threading.get_ident()]


def mark_thread(_: Any, __: str, line: Any) -> Any:
    return {**line, "thread": threading.get_ident()}


def claims_in(url: str) -> dict[str, str]:
    with closing(Database(url)) as database, database.read() as connection:
        rows = connection.execute(sa.text("SELECT value, holder FROM claims"))
        return {row.value: row.holder for row in rows}


def test_each_email_stays_with_its_user(by_the_old_rule: Write, new_url: str) -> None:
    emails = {
        "ascii": "Ada@Example.COM",
        "local": "ÅSA@example.com",
        "composed": "a\u030asa2@example.com",
        "idn": "ada@bücher.example.com",
        "a-label": "grace@xn--bcher-kva.example.com",
        "eszett": "cy@straße1.de",
        "wide": "cy@ｓtrasse1.de",  # now what the one before was
        "ligature": "ﬁ@example.com",
        "sigma": "νίκος@example.com",
    }

    def create(users: Users) -> None:
        for user_id, email in emails.items():
            users.create(user_id, email)

    by_the_old_rule(create)
    assert upgraded(new_url) == []
    assert claims_in(new_url) == {email_claim(email): user_id for user_id, email in emails.items()}
    with serving(new_url) as users:
        assert {user_id: users.holder(email) for user_id, email in emails.items()} == {each: each for each in emails}
        users.create("new", "fi@example.com")
        assert users.why_not("nobody", "ada@XN--BCHER-KVA.example.com") == "EMAIL_TAKEN"


def test_the_way_back_makes_claims_by_the_old_rule(by_the_old_rule: Write, new_url: str) -> None:
    emails = {
        "ascii": "ada@xn--bcher-kva.example.com",
        "same": "ada@bücher.example.com",  # now as the one before
        "eszett": "CY@straße1.de",
        "wide": "cy@ｓtrasse1.de",
    }

    def create(users: Users) -> None:
        for user_id, email in emails.items():
            users.create(user_id, email)

    by_the_old_rule(create)
    assert [line["user_id"] for line in upgraded(new_url)] == ["same"]
    revision = importlib.import_module("handfast.server.users.migrations.versions.0003_same_emails")
    with (
        closing(Database(new_url)) as database,
        database.engine.begin() as connection,
        Operations.context(MigrationContext.configure(connection)),
    ):
        revision.downgrade()
    assert claims_in(new_url) == {old_rule(email): user_id for user_id, email in emails.items()}


def test_of_two_users_with_one_email_the_older_keeps_it_and_both_are_named(
    by_the_old_rule: Write, new_url: str
) -> None:
    a_label, idn, wide = "ada@xn--bcher-kva.example.com", "ada@bücher.example.com", "ada@ｂücher.example.com"

    def create(users: Users) -> None:
        users.create("zoe", idn)
        users.create("ada", a_label)
        users.create("bob", wide)

    by_the_old_rule(create)
    logged = upgraded(new_url)
    assert sorted((line["user_id"], line["holder"]) for line in logged) == [("ada", "zoe"), ("bob", "zoe")]
    assert claims_in(new_url) == {email_claim(idn): "zoe"}

    with serving(new_url) as users:
        for user_id, email in (("zoe", idn), ("ada", a_label), ("bob", wide)):
            assert users.stub.GetUser(GetUserRequest(user_id=user_id)).user.email == email
            assert users.holder(email) == "zoe"
        assert users.change("ada", a_label.upper()).email == a_label.upper()
        users.stub.DeleteUser(DeleteUserRequest(user_id="bob"))
        assert users.change("ada", "ada@example.com").email == "ada@example.com"
        assert (users.holder(idn), users.holder("ada@example.com")) == ("zoe", "ada")
        assert users.why_not("nobody", wide) == "EMAIL_TAKEN"


def test_the_operator_finds_them_in_the_log(by_the_old_rule: Write, new_url: str, tmp_path: Path) -> None:
    def create(users: Users) -> None:
        users.create("ada", "ada@bücher.example.com")
        users.create("bob", "ada@xn--bcher-kva.example.com")

    by_the_old_rule(create)
    arguments = ("serve", "users", "--migrate", "--listen", "127.0.0.1:0", "--database-url", new_url)
    process = start_process(tmp_path / "stderr", arguments, {}, first_port=0)
    try:
        eventually(lambda: '"event": "serving"' in process.stderr)
    finally:
        stop_process(process)
    starting, first = map(json.loads, process.stderr.splitlines()[:2])
    assert starting["event"] == "starting"
    assert (first["level"], first["service"]) == ("warning", "users")
    assert (first["event"], first["user_id"], first["holder"]) == (
        "two users have one email; the older keeps it", "bob", "ada",
    )  # fmt: skip
    assert "cher" not in process.stderr


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "aborted"])
def test_what_open_transactions_take_and_free_is_known(
    by_the_old_rule: Write, new_url: str, coordinator: str, committed: bool
) -> None:
    creates, changes = new_id(), new_id()

    def stage(users: Users) -> None:
        users.create("cy", "cy@straße2.de")
        users.create("tom", "tom@bücher.example.com", transaction=creates)
        users.change("cy", "cy@βόλος.com", transaction=changes)
        users.change("cy", "new@straße2.de", transaction=changes, number=2)

    by_the_old_rule(stage)
    assert upgraded(new_url) == []
    with serving(new_url, coordinator) as users:
        for email in ("tom@xn--bcher-kva.example.com", "cy@straße2.de", "cy@βόλος.com", "new@straße2.de"):
            assert users.why_not("nobody", email) == "PENDING_CHANGE"
        assert users.holder("cy@strasse2.de") == ""

        users.finish(creates, committed=int(committed))
        users.finish(changes, committed=2 * committed)
        assert users.holder("tom@xn--bcher-kva.example.com") == ("tom" if committed else "")
        assert users.holder("cy@straße2.de") == ("" if committed else "cy")
        assert users.holder("new@straße2.de") == ("cy" if committed else "")
        assert users.holder("cy@βόλος.com") == ""
        users.create("free", "cy@βόλος.com")


def test_no_open_transaction_takes_an_email_from_the_user_who_has_it(by_the_old_rule: Write, new_url: str) -> None:
    first, second = sorted(new_id() for _ in range(2))

    def stage(users: Users) -> None:
        users.create("eve", "eve@bücher.example.com")
        users.create("younger", "eve@xn--bcher-kva.example.com", transaction=first)
        users.create("other", "eve@ｂücher.example.com", transaction=second)

    by_the_old_rule(stage)
    logged = upgraded(new_url)
    assert [(line["user_id"], line["holder"]) for line in logged] == [("younger", "eve"), ("other", "eve")]
    with serving(new_url) as users:
        users.finish(first, committed=1)
        users.finish(second, committed=1)
        assert users.holder("eve@xn--bcher-kva.example.com") == "eve"
        assert users.stub.GetUser(GetUserRequest(user_id="younger")).user.email == "eve@xn--bcher-kva.example.com"
        users.stub.DeleteUser(DeleteUserRequest(user_id="younger"))
        users.change("other", "other@example.com", transaction=new_id())
        assert users.holder("eve@bücher.example.com") == "eve"


def test_of_two_open_transactions_that_take_one_email_the_older_gets_it(by_the_old_rule: Write, new_url: str) -> None:
    first, second = sorted(new_id() for _ in range(2))

    def stage(users: Users) -> None:
        users.create("one", "eve@bücher.example.com", transaction=second)
        users.create("two", "eve@xn--bcher-kva.example.com", transaction=first)

    by_the_old_rule(stage)
    (logged,) = upgraded(new_url)
    assert (logged["user_id"], logged["transaction_id"], logged["other_transaction_id"]) == ("one", second, first)
    with serving(new_url) as users:
        users.finish(second, committed=1)
        users.finish(first, committed=1)
        assert users.holder("eve@bücher.example.com") == "two"
        assert users.stub.GetUser(GetUserRequest(user_id="one")).user.email == "eve@bücher.example.com"


def user_row(user_id: str, email: str) -> dict[str, Any]:
    values = {"user_id": user_id, "email": email, "display_name": "", "locale": "", "time_zone": "", "labels": {}}
    times = {"create_time": 1, "update_time": 1, "etag": "x"}
    return {**values, **times, "present": True, "last_transaction_id": ""}


def write_by_the_old_rule(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    columns = [sa.column(name, sa.JSON if name == "labels" else None) for name in rows[0]]  # those of that revision
    connection.execute(sa.insert(sa.table("users", *columns)), rows)
    claims = [{"value": old_rule(row["email"]), "holder": row["user_id"]} for row in rows]
    connection.execute(sa.insert(tables.participant.claims), claims)


def test_more_users_than_are_read_at_once_are_all_looked_at(by_the_old_rule: Write, new_url: str) -> None:
    emails = {f"u{number:05}": f"u{number}@straße.de" for number in range(2500)}
    by_the_old_rule(lambda _: None)
    with closing(Database(new_url)) as database:
        rows = [user_row(*each) for each in emails.items()]
        database.write(lambda connection: write_by_the_old_rule(connection, rows))
    assert upgraded(new_url) == []
    assert claims_in(new_url) == {email_claim(email): user_id for user_id, email in emails.items()}


def test_a_write_that_is_under_way_is_waited_for(by_the_old_rule: Write, new_url: str) -> None:
    by_the_old_rule(lambda _: None)
    with closing(Database(new_url)) as database, ThreadPoolExecutor(1) as threads:
        if database.dialect == "sqlite":
            pytest.skip("SQLite has one writer at a time by itself")
        with database.engine.begin() as connection:
            write_by_the_old_rule(connection, [user_row("cy", "cy@straße.de")])
            upgrading = threads.submit(upgraded, new_url)
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass")
            assert eventually(lambda: upgrading.done() or connection.execute(waiting).scalar_one())
        upgrading.result()
    assert claims_in(new_url) == {email_claim("cy@straße.de"): "cy"}
