"""A participant that accounts learns of by its configuration: it takes part, and what it has to finish is not forgotten
when it is taken out of the configuration.
"""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import FailedPrecondition, InvalidArgument, NotFound, Suite, connect
from handfast.server.accounts.server import build as build_accounts
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.server import Server
from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.participant import sweeper
from handfast.server.users import server as users_server
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from tests.cli.processes import Result, run_process
from tests.eventually import eventually
from tests.people import new_email
from tests.transactions.calls import Transaction, commit_unasked

NOBODY = "127.0.0.1:9"
"""Where no server listens."""


@dataclass
class Servers:
    """Users, a participant of another team named credits (which has users, too), and an accounts server that can be
    started anew with another configuration. Preferences (which has users, too) answers operators alone."""

    folder: Path
    first_port: int
    running: dict[str, Server] = field(default_factory=dict)

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.first_port + ('users', 'credits', 'accounts', 'preferences').index(name)}"

    def url(self, name: str) -> str:
        return sqlite_url(self.folder / f"{name}.sqlite3")

    def start_participant(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(users_server, "SCHEMA", Schema(name, users_server.SCHEMA.migrations))
        self._start(name, users_server.build)

    def start_accounts(self, *participants: str, **at_address_of: str) -> None:
        """`at_address_of` says which participants' addresses it takes for those of others."""
        if server := self.running.pop("accounts", None):
            server.stop()
        where = {name: self.address(at_address_of.get(name, name)) for name in ("users", *participants)}
        users_address = where.pop("users")
        # Settings refuse an address that they know, spelled in the same way.
        given = tuple(f"{name}={address.replace('127.0.0.1', 'localhost')}" for name, address in where.items())
        self._start("accounts", build_accounts, participant=given, users_address=users_address)

    def _start(self, name: str, build: Any, **more: Any) -> None:
        settings: dict[str, Any] = {
            "name": name,
            "listen": self.address(name),
            "database_url": self.url(name),
            "migrate": True,
            "users_address": self.address("users"),
            "preferences_address": NOBODY,
            "accounts_address": self.address("accounts"),
            "grace": 0.5,
        }
        self.running[name] = build(SuiteSettings(**settings | more))
        self.running[name].start()

    def unconfigured(self) -> dict[str, float]:
        """The gauge, by participant."""
        with urllib.request.urlopen(self.running["accounts"].metrics_url) as reply:
            found = re.findall(
                r'^handfast_transactions_unconfigured\{participant="(\w+)"\} (\S+)$', reply.read().decode(), re.M
            )
        return {participant: float(count) for participant, count in found}

    def handfast(self, *arguments: str) -> Result:
        """Runs `handfast transactions …`, with no address of credits."""
        names = ("users", "preferences", "accounts")
        flags = [text for name in names for text in (f"--{name}-address", self.address(name))]
        return run_process(("transactions", *arguments, *flags), {})


@pytest.fixture
def servers(short_pauses: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setattr(sweeper, "YOUNG_US", 0)  # what others are about to finish is swept as well
    servers = Servers(tmp_path, free_first_port())
    try:
        servers.start_participant("users", monkeypatch)
        servers.start_participant("credits", monkeypatch)
        servers.start_participant("preferences", monkeypatch)
        servers.start_accounts("credits")
        yield servers
    finally:
        for server in reversed(servers.running.values()):
            server.stop()


@pytest.fixture
def client(servers: Servers) -> Iterator[Suite]:
    with connect(servers.address("users"), NOBODY, servers.address("accounts")) as suite:
        yield suite


@pytest.fixture
def credits(servers: Servers) -> Iterator[Suite]:
    """Its `users` are those of credits."""
    with connect(servers.address("credits"), NOBODY, servers.address("accounts")) as suite:
        yield suite


@pytest.fixture
def tx(client: Suite, credits: Suite) -> Transaction:
    """Has staged a user ada at both."""
    return staged(client, credits, "ada")


def staged(client: Suite, credits: Suite, user_id: str) -> Transaction:
    tx = Transaction(client)
    tx.stage("users", client.users.CreateUser, creating(user_id))
    tx.stage("credits", credits.users.CreateUser, creating(user_id))
    return tx


def creating(user_id: str) -> CreateUserRequest:
    return CreateUserRequest(user=User(user_id=user_id, email=new_email()))


def has(suite: Suite, user_id: str) -> bool:
    with contextlib.suppress(NotFound):
        return bool(suite.users.GetUser(GetUserRequest(user_id=user_id)).user.user_id)
    return False


def looked_up(client: Suite, transaction_id: str) -> pb.Transaction:
    return client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=transaction_id)).transaction


def is_finished(client: Suite, transaction_id: str) -> bool:
    return looked_up(client, transaction_id).HasField("finish_time")


def branches(suite: Suite) -> list[str]:
    """The transactions of which the participant has something that is not finished."""
    stub = suite.stub(ParticipantServiceStub, "users")
    return [branch.transaction_id for branch in stub.ListBranches(pb.ListBranchesRequest()).branches]


@pytest.fixture
def taken_out(servers: Servers, tx: Transaction) -> str:
    """`tx`: it is committed, and credits are stopped, and out of the configuration, before they hear of it."""
    servers.running.pop("credits").stop()
    servers.running.pop("accounts").stop()
    commit_unasked(servers.url("accounts"), tx.id, users=1, credits=1)
    with structlog.testing.capture_logs() as lines:
        servers.start_accounts()
    (line,) = (line for line in lines if line["event"].startswith("decisions wait for a participant"))
    assert (line["log_level"], line["participant"], line["transactions"]) == ("error", "credits", 1)
    assert "--participant credits=ADDRESS" in line["what_to_do"]
    assert "--accept-loss credits" in line["what_to_do"]
    return tx.id


def test_takes_part_in_transactions_and_is_notified(client: Suite, credits: Suite, tx: Transaction) -> None:
    assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED
    assert eventually(lambda: is_finished(client, tx.id))
    assert has(client, "ada")
    assert has(credits, "ada")
    again = staged(client, credits, "bob")
    again.rollback()
    assert eventually(lambda: again.id not in branches(client) + branches(credits))
    assert not has(client, "bob")
    assert not has(credits, "bob")


def test_operators_see_what_it_holds_where_they_say_where_it_is(servers: Servers, tx: Transaction) -> None:
    where = ("--participant", f"credits={servers.address('credits')}")
    head, row = servers.handfast("list", "--in-doubt", *where).stdout.splitlines()
    assert head.split()[-3:] == ["USERS", "PREFERENCES", "CREDITS"]
    assert row.startswith(tx.id)
    assert row.endswith("OPEN 1")
    tx.commit()
    committed = re.compile(r"^credits +FINISHED +1 +1 +COMMITTED$", re.MULTILINE)
    assert eventually(lambda: committed.search(servers.handfast("show", tx.id, *where).stdout))
    unasked = servers.handfast("show", tx.id).stdout
    assert re.search(r"^credits +no address +- +1 +-$", unasked, re.MULTILINE)
    assert "What credits holds is not known here; --participant credits=ADDRESS would say where to ask." in unasked


def test_operators_who_take_it_for_another_are_told_so(servers: Servers, client: Suite, tx: Transaction) -> None:
    for arguments in (("list", "--in-doubt"), ("show", tx.id), ("resolve", tx.id)):
        refused = servers.handfast(*arguments, "--participant", f"credits={servers.address('users')}")
        assert refused.status == 2
        (line,) = refused.stderr.splitlines()
        assert line == f"handfast: transactions: credits is not at {servers.address('users')}: that is users"
    assert looked_up(client, tx.id).state == pb.TRANSACTION_STATE_UNDECIDED


def test_one_that_is_not_configured_is_refused_with_those_that_are(client: Suite, tx: Transaction) -> None:
    with pytest.raises(InvalidArgument) as refused:
        tx.commit(users=1, weather=1)
    (violation,) = refused.value.violations
    assert violation.field == "branches[1].participant"
    assert violation.description.endswith(": credits, preferences, users")
    assert looked_up(client, tx.id).state == pb.TRANSACTION_STATE_UNDECIDED
    assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED


class TestTakenOut:
    def test_holds_up_no_other_and_is_finished_when_it_is_configured_again(
        self, servers: Servers, client: Suite, taken_out: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert servers.unconfigured() == {"users": 0, "preferences": 0, "credits": 1}
        other = Transaction(client)
        other.stage("users", client.users.CreateUser, creating("bob"))
        other.commit()
        assert eventually(lambda: is_finished(client, other.id))
        assert eventually(lambda: not branches(client))
        assert looked_up(client, taken_out).unconfigured_participants == ["credits"]
        assert not is_finished(client, taken_out)
        servers.start_participant("credits", monkeypatch)
        servers.start_accounts("credits")
        assert eventually(lambda: is_finished(client, taken_out))
        assert not looked_up(client, taken_out).unconfigured_participants
        assert servers.unconfigured() == {"users": 0, "preferences": 0, "credits": 0}

    def test_still_has_a_repeat_of_its_commit_answered_and_can_be_named_by_no_other(
        self, client: Suite, tx: Transaction, taken_out: str
    ) -> None:
        assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED
        other = Transaction(client)
        other.stage("users", client.users.CreateUser, creating("bob"))
        with pytest.raises(InvalidArgument) as refused:
            other.commit(users=1, credits=1)
        assert refused.value.violations[0].description.endswith(": preferences, users")

    def test_settles_by_itself_what_is_open_there(
        self, servers: Servers, client: Suite, credits: Suite, taken_out: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers.start_participant("credits", monkeypatch)
        assert has(credits, "ada")
        late = Transaction(client)
        late.stage("credits", credits.users.CreateUser, creating("bob"))
        late.rollback()
        assert eventually(lambda: not branches(credits))
        assert has(credits, "ada")
        assert not has(credits, "bob")

    def test_is_shown_and_given_up_for_good_by_an_operator(
        self, servers: Servers, client: Suite, taken_out: str
    ) -> None:
        assert eventually(lambda: not branches(client))
        head, row = servers.handfast("list", "--in-doubt").stdout.splitlines()
        assert head.split()[-3:] == ["USERS", "PREFERENCES", "CREDITS"]
        assert row.startswith(taken_out)
        assert row.endswith("no address")
        shown = servers.handfast("show", taken_out).stdout
        assert "credits      no address  -       1          -" in shown
        assert f"`handfast transactions resolve {taken_out} --accept-loss credits` end it without" in shown
        resolved = servers.handfast("resolve", taken_out)
        assert (resolved.status, resolved.stderr) == (
            2,
            "handfast: transactions: the coordinator has no address of credits, and so cannot finish it there\n",
        )
        ended = servers.handfast("resolve", taken_out, "--accept-loss", "credits")
        assert (ended.status, ended.stderr) == (0, "")
        assert is_finished(client, taken_out)
        assert servers.unconfigured() == {"users": 0, "preferences": 0}


ADDRESSES = {"one at the address of another": {"credits": "users"}, "swapped": {"credits": "users", "users": "credits"}}


@pytest.mark.parametrize("at_address_of", ADDRESSES.values(), ids=ADDRESSES)
class TestAtTheAddressOfAnother:
    def test_no_commit_names_it_and_nothing_is_left_of_what_was_staged(
        self, servers: Servers, client: Suite, credits: Suite, tx: Transaction, at_address_of: dict[str, str]
    ) -> None:
        servers.start_accounts("credits", **at_address_of)
        for more in ("bob", "cleo"):
            tx.stage("users", client.users.CreateUser, creating(more))
        with pytest.raises(FailedPrecondition) as refused:
            tx.commit()
        assert refused.value.reason == "WRONG_PARTICIPANT"
        asked = next(name for name in ("credits", "users") if name == refused.value.metadata["asked"])
        assert refused.value.metadata["participant"] == at_address_of[asked]
        assert f"address that the coordinator has for {asked}" in refused.value.message
        assert looked_up(client, tx.id).state == pb.TRANSACTION_STATE_UNDECIDED
        tx.rollback()
        assert eventually(lambda: tx.id not in branches(client) + branches(credits))
        assert not has(client, "ada")
        assert not has(credits, "ada")

    def test_is_not_told_of_decisions_and_nothing_is_lost(
        self, servers: Servers, client: Suite, credits: Suite, tx: Transaction, at_address_of: dict[str, str]
    ) -> None:
        for more in ("bob", "cleo"):
            tx.stage("users", client.users.CreateUser, creating(more))
        servers.running.pop("accounts").stop()
        commit_unasked(servers.url("accounts"), tx.id, users=3, credits=1)
        with structlog.testing.capture_logs() as lines:
            servers.start_accounts("credits", **at_address_of)
            event = "at the address of a participant there is another one; trying again"
            assert eventually(
                lambda: (
                    at_address_of.items()
                    <= {line["participant"]: line["answered_by"] for line in lines if line["event"] == event}.items()
                )
            )
        assert not is_finished(client, tx.id)
        assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED  # a repeat is answered as the first
        servers.start_accounts("credits")
        assert eventually(lambda: not branches(client) + branches(credits))
        assert all(has(client, user_id) for user_id in ("ada", "bob", "cleo"))
        assert has(credits, "ada")


def test_an_account_call_that_another_participant_stages_changes_nothing(
    servers: Servers, client: Suite, credits: Suite
) -> None:
    servers.start_accounts("credits", users="credits")
    with pytest.raises(FailedPrecondition) as refused:
        client.accounts.CreateAccount(CreateAccountRequest(user=User(user_id="ada", email=new_email())))
    assert refused.value.reason == "WRONG_PARTICIPANT"
    assert refused.value.metadata == {"asked": "users", "participant": "credits"}
    assert eventually(lambda: not branches(credits))
    assert not has(credits, "ada")


class TestRollback:
    def test_notifies_those_that_it_names_and_what_others_hold_is_swept(
        self, servers: Servers, client: Suite, credits: Suite, tx: Transaction
    ) -> None:
        request = pb.RollbackTransactionRequest(transaction_id=tx.id, participants=["users", "weather"])
        client.transactions.RollbackTransaction(request)
        assert eventually(lambda: is_finished(client, tx.id))  # though nobody serves preferences
        assert eventually(lambda: not branches(credits))
        assert not has(client, "ada")
        assert not has(credits, "ada")
