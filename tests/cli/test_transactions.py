"""`handfast transactions`: what is in doubt, what became of a transaction, and how an operator ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from handfast.client import NotFound, Suite, channel
from handfast.server.chassis.ids import new_id
from handfast.server.cli.inquiry import Inquiry
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.supervisor import HANDFAST
from handfast.server.process.settings import sqlite_url
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import (
    ParticipantServiceServicer,
    ParticipantServiceStub,
    add_ParticipantServiceServicer_to_server,
)
from handfast.users.v1.users_pb2 import DeleteUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import CLEAN, Process, Result, run_process
from tests.eventually import PATIENCE
from tests.people import create_user
from tests.project.commands import ROOT
from tests.transactions.calls import Transaction, commit_unasked

Command = Callable[..., Result]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

CLIENT_THAT_DIES = """
import os, sys
from handfast.client import connect
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.transactions.calls import Transaction

users, preferences, accounts, user_id = sys.argv[1:]
with connect(users, preferences, accounts) as client:
    tx = Transaction(client, timeout_seconds=300)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=user_id))
    print(tx.id, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def client(suite: Process) -> Any:
    with suite.connect() as services:
        yield services


@pytest.fixture
def command(suite: Process) -> Command:
    """Runs `handfast transactions …` for the suite."""
    environment = {f"HANDFAST_{server.upper()}_ADDRESS": address for server, address in suite.addresses.items()}

    def run(*arguments: str, **more: str) -> Result:
        return run_process(("transactions", *arguments), environment | more)

    return run


@pytest.fixture
def ada(client: Suite) -> User:
    return create_user(client)


@pytest.fixture
def left_behind(suite: Process, ada: User) -> str:
    """A transaction that is about to delete ada, and whose client was killed."""
    program = [sys.executable, "-c", CLIENT_THAT_DIES, *suite.addresses.values(), ada.user_id]
    done = subprocess.run(program, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def staged(client: Suite, user: User) -> Transaction:
    tx = Transaction(client, timeout_seconds=300)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=user.user_id))
    return tx


def lines(result: Result) -> list[str]:
    assert (result.status, result.stderr) == (0, "")
    return result.stdout.splitlines()


def in_words(result: Result) -> str:
    """The last paragraph."""
    return result.stdout.rstrip("\n").rpartition("\n\n")[2]


def aborted_by_operators(suite: Process) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{suite.first_port + 102}/metrics") as reply:
        text = reply.read().decode()
    found = re.search(r'decided_total\{outcome="aborted",reason="ROLLED_BACK_BY_OPERATOR"\} (\S+)', text)
    return float(found[1]) if found else 0.0


class TestInDoubt:
    def test_what_a_dead_client_left_is_seen_and_resolved(
        self, suite: Process, client: Suite, command: Command, ada: User, left_behind: str
    ) -> None:
        head, *rows = lines(command("list", "--in-doubt"))
        assert head.split() == ["TRANSACTION", "STATE", "BEGUN", "DEADLINE", "USERS", "PREFERENCES"]
        (row,) = (row for row in rows if row.startswith(left_behind))
        assert re.fullmatch(rf"{left_behind}  UNDECIDED  {TIME}  {TIME}  OPEN 1  -", row)

        shown = command("show", left_behind)
        assert re.search(r"^state +UNDECIDED$", shown.stdout, re.MULTILINE)
        assert re.search(r"^users +OPEN +1 +- +-$", shown.stdout, re.MULTILINE)
        assert in_words(shown).startswith("Not decided. Nothing of it is visible;")
        assert f"`handfast transactions resolve {left_behind}`" in in_words(shown)

        before = aborted_by_operators(suite)
        resolved = command("resolve", left_behind)
        assert (resolved.status, resolved.stderr) == (0, "")
        assert re.search(r"^reason +ROLLED_BACK_BY_OPERATOR$", resolved.stdout, re.MULTILINE)
        assert re.search(r"^users +FINISHED +1 +- +ABORTED$", resolved.stdout, re.MULTILINE)
        assert in_words(resolved) == "Rolled back: nothing of it is visible, for good."
        assert aborted_by_operators(suite) == before + 1
        assert left_behind not in command("list", "--in-doubt").stdout
        # At once, minutes before its deadline.
        client.users.UpdateUser(UpdateUserRequest(user=User(user_id=ada.user_id, display_name="Ada")))

    def test_json_says_the_same(self, command: Command, left_behind: str) -> None:
        found = json.loads(command("list", "--in-doubt", "--json").stdout)
        (case,) = (each for each in found if each["transaction_id"] == left_behind)
        assert case["state"] == "TRANSACTION_STATE_UNDECIDED"
        assert case["participants"]["users"]["state"] == "BRANCH_STATE_OPEN"
        resolved = json.loads(command("resolve", "--json", left_behind).stdout)
        assert resolved["state"] == "TRANSACTION_STATE_ABORTED"
        assert resolved["participants"]["users"]["outcome"] == "TRANSACTION_STATE_ABORTED"

    def test_the_oldest_come_first_and_a_limit_says_so(self, client: Suite, command: Command) -> None:
        transactions = [staged(client, create_user(client)) for _ in range(3)]
        ids = [row.split()[0] for row in lines(command("list", "--in-doubt"))[1:]]
        assert ids == sorted(ids)
        assert [id_ for id_ in ids if id_ in {tx.id for tx in transactions}] == [tx.id for tx in transactions]
        result = command("list", "--in-doubt", "--limit", "2")
        assert [row.split()[0] for row in result.stdout.splitlines()[1:]] == ids[:2]
        assert result.stderr == "handfast: transactions: these are the oldest 2; see --limit\n"
        for tx in transactions:
            tx.rollback()


class TestDecided:
    def test_a_committed_one_is_told_and_resolving_it_changes_nothing(
        self, client: Suite, command: Command, ada: User
    ) -> None:
        tx = staged(client, ada)
        tx.commit()
        for action in ("resolve", "show", "resolve"):
            result = command(action, tx.id)
            assert (result.status, result.stderr) == (0, "")
            assert re.search(r"^users +FINISHED +1 +1 +COMMITTED$", result.stdout, re.MULTILINE)
            assert in_words(result) == "Committed, and applied by every participant."
        row = next(row for row in lines(command("list", "--state", "committed")) if row.startswith(tx.id))
        assert re.fullmatch(rf"{tx.id}  COMMITTED  {TIME}  {TIME}  users 1", row)
        assert tx.id not in command("list", "--state", "aborted").stdout

    def test_the_newest_come_first_up_to_the_limit(self, client: Suite, command: Command, ada: User) -> None:
        ids = []
        for _ in range(3):
            tx = staged(client, ada)
            tx.rollback()
            ids.append(tx.id)
            client.users.UpdateUser(UpdateUserRequest(user=ada))  # meets what is staged, and finishes it
        head, *rows = lines(command("list", "--limit", "2"))
        assert head.split()[:4] == ["TRANSACTION", "STATE", "DECIDED", "FINISHED"]
        assert [row.split()[0] for row in rows] == [ids[2], ids[1]]
        assert all(row.endswith("  TEST") for row in rows)
        assert [each["abort_reason"] for each in json.loads(command("list", "--limit", "2", "--json").stdout)] == [
            "TEST",
            "TEST",
        ]

    def test_a_commit_of_more_than_was_staged_is_said_to_be_lost_and_can_be_ended(
        self, suite: Process, client: Suite, command: Command, ada: User
    ) -> None:
        tx = staged(client, ada)
        commit_unasked(sqlite_url(suite.errors.parent / "data" / "transactions.sqlite3"), tx.id, users=2)
        result = command("resolve", tx.id)
        assert result.status == 2
        assert re.match(r"handfast: transactions: users at \S+ lost what was committed: ", result.stderr)
        assert result.stderr.endswith("not to come back, --accept-loss users ends it without\n")
        assert in_words(result).startswith("Committed: all of it is visible")
        for _ in range(2):
            result = command("resolve", tx.id, "--accept-loss", "users")
            assert (result.status, result.stderr) == (0, "")
            assert in_words(result).endswith(
                "An operator let users finish it without what was lost there, or could not be applied."
            )
        assert command("resolve", tx.id).status == 0
        with pytest.raises(NotFound):  # what was staged is applied: it deleted her
            client.users.UpdateUser(UpdateUserRequest(user=ada))

    def test_a_commit_that_a_participant_fails_to_apply_is_said_to_fail_and_can_be_ended(
        self, suite: Process, client: Suite, command: Command, ada: User
    ) -> None:
        tx = staged(client, ada)
        with contextlib.closing(sqlite3.connect(suite.errors.parent / "data" / "users.sqlite3")) as users:
            users.execute("CREATE TRIGGER outside BEFORE DELETE ON users BEGIN SELECT RAISE(ABORT, 'no'); END")
            try:
                tx.commit()
                result = command("resolve", tx.id)
                assert result.status == 2
                assert re.match(r"handfast: transactions: users at \S+ failed to finish it: the log", result.stderr)
                result = command("resolve", tx.id, "--accept-loss", "users")
                assert (result.status, result.stderr) == (0, "")
            finally:
                users.execute("DROP TRIGGER outside")
        client.users.UpdateUser(UpdateUserRequest(user=ada))

    def test_nobody_accepts_the_loss_of_who_has_no_part_in_it(self, client: Suite, command: Command, ada: User) -> None:
        tx = staged(client, ada)
        tx.commit()
        result = command("resolve", tx.id, "--accept-loss", "preferences")
        assert (result.status, result.stdout) == (2, "")
        assert "participants[0]: has no part in what was decided" in result.stderr

    def test_nobody_accepts_the_loss_of_who_has_lost_nothing(self, client: Suite, command: Command, ada: User) -> None:
        tx = staged(client, ada)
        tx.commit()
        assert command("resolve", tx.id).status == 0  # so it is finished
        result = command("resolve", tx.id, "--accept-loss", "users")
        assert (result.status, result.stdout) == (2, "")
        assert re.search(r"users at \S+ finished it as decided, and lost nothing. Nothing was done$", result.stderr)
        assert "An operator" not in command("show", tx.id).stdout


UNKNOWN = "no server knows of this transaction: it was never used, or has only begun"


class TestNeverUsed:
    def test_is_told(self, client: Suite, command: Command) -> None:
        assert in_words(command("show", Transaction(client).id)) == (
            "Not decided, and nothing is staged: it was never used, or has only begun."
        )

    @pytest.mark.parametrize("more", [(), ("--json",)])
    def test_a_script_that_resolves_it_is_refused(self, client: Suite, command: Command, more: tuple[str, ...]) -> None:
        tx = Transaction(client)
        what = f"{UNKNOWN}; nothing was done, with --yes it is rolled back so that it can never be used"
        assert command("resolve", tx.id, *more) == Result(2, "", f"handfast: transactions: {what}\n")
        assert tx.state() == pb.TRANSACTION_STATE_UNDECIDED

    def test_who_says_yes_keeps_it_from_being_used_and_is_told_so(self, client: Suite, command: Command) -> None:
        tx = Transaction(client)
        result = command("resolve", "--yes", tx.id)
        assert (result.status, result.stderr) == (0, "")
        assert in_words(result).endswith(" No server knew of it before; from now on it cannot be used.")
        assert tx.state() == pb.TRANSACTION_STATE_ABORTED

    def test_json_says_so_too(self, client: Suite, command: Command) -> None:
        tx = Transaction(client)
        first, second = (json.loads(command("resolve", "--yes", "--json", tx.id).stdout) for _ in range(2))
        assert (first["state"], first["was_unknown"]) == ("TRANSACTION_STATE_ABORTED", True)
        assert (second["state"], second["was_unknown"]) == ("TRANSACTION_STATE_ABORTED", False)

    @pytest.mark.parametrize(("answer", "status", "state"), [("n", 2, "UNDECIDED"), ("y", 0, "ABORTED")])
    def test_a_person_is_asked(self, suite: Process, client: Suite, answer: str, status: int, state: str) -> None:
        tx = Transaction(client)
        master, terminal = pty.openpty()
        addresses = {f"HANDFAST_{server.upper()}_ADDRESS": address for server, address in suite.addresses.items()}
        os.write(master, f"{answer}\n".encode())
        done = subprocess.run(
            [*HANDFAST, "transactions", "resolve", tx.id],
            env=CLEAN | addresses,
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        os.close(master)
        os.close(terminal)
        assert done.returncode == status
        assert done.stderr.startswith(f"{UNKNOWN.capitalize()}. Roll it back, so that it can never be used? [y/N]")
        assert pb.TransactionState.Name(tx.state()) == f"TRANSACTION_STATE_{state}"


@pytest.mark.parametrize("action", [(), ("list",), ("show",), ("resolve",)])
def test_every_action_explains_itself(command: Command, action: tuple[str, ...]) -> None:
    result = command(*action, "--help")
    assert result.status == 0
    assert result.stdout.startswith(f"Usage: {' '.join(('handfast', 'transactions', *action))} ")


@pytest.mark.parametrize("arguments", [("list",), ("list", "--in-doubt", "--json"), ("show", new_id())])
def test_a_reader_may_leave_early(suite: Process, unread: int, arguments: tuple[str, ...]) -> None:
    command = [*HANDFAST, "transactions", *arguments, "--first-port", str(suite.first_port)]
    done = subprocess.run(command, env=CLEAN, stdout=unread, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("settings", [("--first-port", None), (None, "HANDFAST_FIRST_PORT")])
def test_a_suite_on_other_ports_is_found_by_its_first(
    suite: Process, handfast: Command, settings: tuple[str | None, str | None]
) -> None:
    flag, variable = settings
    port = str(suite.first_port)
    arguments = (flag, port) if flag else ()
    environment = {variable: port} if variable else {"HANDFAST_USERS_ADDRESS": "127.0.0.1:9"}  # a flag wins over it
    assert handfast("transactions", "list", "--in-doubt", *arguments, **environment).status == 0


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--limit", "0", "0 is not in the range x>=1."),
        ("--limit", "many", "'many' is not a valid integer range."),
        ("--state", "lost", "'lost' is not one of 'committed', 'aborted'."),
    ],
)
def test_an_option_that_breaks_its_rule_is_named(command: Command, option: str, value: str, rule: str) -> None:
    result = command("list", option, value)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.endswith(f"\nError: Invalid value for '{option}': {rule}\n")


class TestRefusals:
    @pytest.mark.parametrize("action", ["show", "resolve"])
    def test_what_is_no_id(self, command: Command, action: str) -> None:
        result = command(action, "ada")
        assert (result.status, result.stdout) == (2, "")
        assert "transaction_id: must be a transaction id: a UUIDv7 in lower case" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_an_id_from_the_future(self, command: Command) -> None:
        result = command("resolve", "--yes", "ffffffff-ffff-7000-8000-000000000000")
        assert (result.status, result.stdout) == (2, "")
        assert "TRANSACTION_FROM_FUTURE" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_two_lists_at_once(self, command: Command) -> None:
        result = command("list", "--in-doubt", "--state", "aborted")
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.startswith("Usage: handfast transactions list ")
        assert result.stderr.endswith("\nError: Of --state and --in-doubt only one can be given.\n")

    def test_no_address(self, command: Command) -> None:
        result = command("list", "--users-address", "nowhere")
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.startswith("handfast: transactions: --users-address (or HANDFAST_USERS_ADDRESS): ")

    def test_no_coordinator(self, command: Command) -> None:
        nobody = f"127.0.0.1:{free_first_port()}"
        commands = [("list",), ("list", "--in-doubt"), ("show", new_id())]
        with ThreadPoolExecutor() as pool:  # each waits for some seconds
            results = list(pool.map(lambda each: command(*each, "--accounts-address", nobody), commands))
        assert results == [Result(2, "", f"handfast: transactions: no answer from accounts at {nobody}\n")] * 3

    def test_a_participant_that_does_not_answer(self, command: Command, client: Suite, ada: User) -> None:
        tx = staged(client, ada)
        nobody = f"127.0.0.1:{free_first_port()}"
        listed = command("list", "--in-doubt", HANDFAST_PREFERENCES_ADDRESS=nobody)
        assert re.search(rf"^{tx.id} .* OPEN 1 +no answer$", listed.stdout, re.MULTILINE)
        complaint = f"handfast: transactions: no answer from preferences at {nobody}"
        assert (listed.status, listed.stderr) == (2, f"{complaint}: what is in doubt there is not listed\n")
        resolved = command("resolve", tx.id, HANDFAST_PREFERENCES_ADDRESS=nobody)
        assert (resolved.status, resolved.stderr) == (2, f"{complaint}: whether it is finished there is not known\n")
        assert re.search(r"^users +FINISHED +1 +- +ABORTED$", resolved.stdout, re.MULTILINE)

    @pytest.mark.usefixtures("short_pauses")
    def test_a_server_that_did_not_answer_is_not_asked_again(self, suite: Process, client: Suite, ada: User) -> None:
        tx, asked = staged(client, ada), []

        class Away(ParticipantServiceServicer):
            def QueryBranch(self, request: pb.QueryBranchRequest, context: grpc.ServicerContext) -> Any:
                asked.append(request)
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")

        server = grpc.server(ThreadPoolExecutor(1))
        add_ParticipantServiceServicer_to_server(Away(), server)  # type: ignore[abstract]
        away = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        with contextlib.closing(Inquiry(suite.addresses | {"preferences": away})) as inquiry:
            assert inquiry.case(tx.id).silent == ["preferences"]
            before = len(asked)
            assert inquiry.case(tx.id).silent == ["preferences"]
            assert len(asked) == before > 0
        server.stop(None)
        tx.rollback()

    def test_a_coordinator_that_never_heard_of_what_is_committed(
        self, suite: Process, command: Command, client: Suite, ada: User
    ) -> None:
        tx = staged(client, ada)
        with channel(suite.addresses["users"]) as to_users:
            decision = pb.Decision(transaction_id=tx.id, state=pb.TRANSACTION_STATE_COMMITTED, operation_count=1)
            ParticipantServiceStub(to_users).FinishTransactions(pb.FinishTransactionsRequest(decisions=[decision]))
        shown = command("show", tx.id)
        assert in_words(shown).startswith("DATA WAS LOST: users finished it otherwise than the coordinator says.")
        resolved = command("resolve", tx.id)
        assert (resolved.status, resolved.stdout) == (2, "")
        assert resolved.stderr.startswith(f"handfast: transactions: users at {suite.addresses['users']} finished it")
        assert tx.state() == pb.TRANSACTION_STATE_UNDECIDED

    def test_the_coordinator_of_another_suite(
        self, up: Callable[..., Process], command: Command, client: Suite, ada: User
    ) -> None:
        """Nothing of it is dropped, so that its own coordinator can still commit it."""
        tx = staged(client, ada)
        other = up()
        assert other.read_until("ready").endswith("ready\n"), other.stderr
        accounts = other.addresses["accounts"]
        result = command("resolve", tx.id, "--timeout", "0.5", HANDFAST_ACCOUNTS_ADDRESS=accounts)
        assert result.status == 2
        assert result.stderr.endswith(
            f"did not finish it within 0.5 s; is the server of its coordinator at {accounts}?\n"
        )
        tx.commit()
        with pytest.raises(NotFound):
            client.users.GetUser(GetUserRequest(user_id=ada.user_id))
