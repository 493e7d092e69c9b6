"""Credits keep balances and entries, plainly on either database, and together with users in transactions."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from credits import service, tables
from credits.v1 import credits_pb2 as pb
from credits.v1.credits_pb2_grpc import CreditsServiceStub

from handfast.client import Aborted, FailedPrecondition, InvalidArgument, NotFound, Suite, channel
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.testing import suite_with
from handfast.server.transactions import ParticipantSettings
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from tests.project.commands import ROOT
from tests.project.readme import blocks, shows_the_same

CREDITS = ROOT / "examples" / "credits"
# What is imported from handfast.server.transactions, and what is made of it.
OF_TRANSACTIONS = re.compile(
    r"[Pp]articipant|UnitOfWork|ResourceType|resource_table|server\.transactions|\bwork\b|_write\(|_(accounts|entries)\."
)


def lines() -> list[str]:
    """What the service consists of, but for its contract and stubs: lines with something in them but a comment."""
    files = [file for file in (CREDITS / "credits").rglob("*.py") if "v1" not in file.parts]
    texts = [line.strip() for file in files for line in file.read_text().splitlines()]
    return [line for line in texts if line and not line.startswith("#")]


def test_the_service_is_at_most_150_lines_of_which_30_are_special_to_transactions() -> None:
    written = lines()
    assert len(written) <= 150
    special = [line for line in written if OF_TRANSACTIONS.search(line)]
    assert 10 < len(special) <= 30


@pytest.fixture
def credits(new_url: str) -> Iterator[CreditsServiceStub]:
    """A server of its own, on each database, whose coordinator is away."""
    settings = ParticipantSettings(
        name="credits",
        listen="127.0.0.1:0",
        database_url=new_url,
        migrate=True,
        accounts_address="127.0.0.1:1",
        log_level="warning",
    )
    server = service.build(settings)
    server.start()
    try:
        with channel(server.address) as to_credits:
            yield CreditsServiceStub(to_credits)
    finally:
        server.stop()


def balance(stub: CreditsServiceStub, account_id: str) -> int:
    return stub.GetBalance(pb.GetBalanceRequest(account_id=account_id)).balance


def test_a_balance_is_what_was_granted_and_not_spent_and_each_change_is_kept(credits: CreditsServiceStub) -> None:
    assert balance(credits, "ada") == 0
    granted = credits.Grant(pb.GrantRequest(account_id="ada", amount=10, note="welcome")).entry
    spent = credits.Spend(pb.SpendRequest(account_id="ada", amount=4)).entry
    assert (granted.entry_id, granted.amount, granted.balance, granted.note) == ("ada/0000000001", 10, 10, "welcome")
    assert (spent.entry_id, spent.amount, spent.balance) == ("ada/0000000002", -4, 6)
    assert granted.create_time.ToMicroseconds() > 0
    assert balance(credits, "ada") == 6
    listed = credits.ListEntries(pb.ListEntriesRequest(account_id="ada")).entries
    assert list(listed) == [granted, spent]


def test_a_balance_is_never_below_zero(credits: CreditsServiceStub) -> None:
    credits.Grant(pb.GrantRequest(account_id="ada", amount=3))
    for amount in (4, 1_000_000_000):
        with pytest.raises(FailedPrecondition) as caught:
            credits.Spend(pb.SpendRequest(account_id="ada", amount=amount))
        assert (caught.value.service, caught.value.reason) == ("credits", "INSUFFICIENT_CREDITS")
        assert caught.value.metadata == {"account_id": "ada", "balance": "3", "amount": str(amount)}
    assert balance(credits, "ada") == 3
    credits.Spend(pb.SpendRequest(account_id="ada", amount=3))
    assert balance(credits, "ada") == 0


def test_those_who_spend_at_once_spend_no_more_than_there_is(credits: CreditsServiceStub) -> None:
    credits.Grant(pb.GrantRequest(account_id="ada", amount=12))
    with ThreadPoolExecutor() as threads:
        spends = [threads.submit(credits.Spend, pb.SpendRequest(account_id="ada", amount=1)) for _ in range(20)]
    refused = [spend.exception() for spend in spends if spend.exception() is not None]
    assert len(refused) == 8
    assert {type(error) for error in refused} == {FailedPrecondition}
    entries = credits.ListEntries(pb.ListEntriesRequest(account_id="ada")).entries
    assert [entry.balance for entry in entries] == list(range(12, -1, -1))
    assert balance(credits, "ada") == 0


def test_a_repeat_with_the_same_request_id_changes_nothing_more(credits: CreditsServiceStub) -> None:
    request = pb.GrantRequest(account_id="ada", amount=10, request_id=str(uuid.uuid4()))
    assert credits.Grant(request) == credits.Grant(request)
    assert balance(credits, "ada") == 10


def test_entries_come_in_pages_and_only_those_of_one_account(credits: CreditsServiceStub) -> None:
    for account_id in ("ada", "ada-2", "ad"):
        for amount in range(1, 6):
            credits.Grant(pb.GrantRequest(account_id=account_id, amount=amount))
    found, token = [], ""
    while page := credits.ListEntries(pb.ListEntriesRequest(account_id="ada", page_size=2, page_token=token)):
        found += [entry.entry_id for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"ada/{number:010}" for number in range(1, 6)]
    page = credits.ListEntries(pb.ListEntriesRequest(account_id="ada", page_size=2))
    with pytest.raises(InvalidArgument):
        credits.ListEntries(pb.ListEntriesRequest(account_id="ad", page_token=page.next_page_token))


def test_all_that_is_wrong_with_a_request_is_told_at_once(credits: CreditsServiceStub) -> None:
    with pytest.raises(InvalidArgument) as caught:
        credits.Spend(pb.SpendRequest(account_id="Ada", amount=0, note="x" * 201, request_id="once"))
    assert [each.field for each in caught.value.violations] == ["account_id", "amount", "note", "request_id"]


def test_the_migrations_make_what_the_code_expects(new_url: str) -> None:
    database = Database(new_url)
    with contextlib.closing(database):
        upgrade(database, service.SCHEMA)
        with database.engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "compare_type": True,
                    "include_name": lambda name, kind, _: kind != "table" or name in tables.metadata.tables,
                },
            )
            assert compare_metadata(context, tables.metadata) == []


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    """A suite that knows credits."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(CREDITS))
        with suite_with(credits="credits") as suite:
            yield suite


def test_credits_and_users_change_together_or_not_at_all(suite: Suite) -> None:
    ada = f"ada-{uuid.uuid4().hex}"
    credits = suite.stub(CreditsServiceStub, "credits")
    with suite.transaction() as tx:
        tx.stub(CreditsServiceStub, "credits").Grant(pb.GrantRequest(account_id=ada, amount=10))
        tx.users.CreateUser(CreateUserRequest(user=User(user_id=ada, email=f"{ada}@example.com")))
        assert balance(tx.stub(CreditsServiceStub, "credits"), ada) == 10
        assert balance(credits, ada) == 0
    assert suite.users.GetUser(GetUserRequest(user_id=ada)).user.user_id == ada
    assert balance(credits, ada) == 10
    eve = f"eve-{uuid.uuid4().hex}"

    def in_vain() -> None:
        with suite.transaction() as tx:
            tx.users.CreateUser(CreateUserRequest(user=User(user_id=eve, email=f"{eve}@example.com")))
            tx.stub(CreditsServiceStub, "credits").Spend(pb.SpendRequest(account_id=ada, amount=11))

    with pytest.raises(FailedPrecondition) as caught:
        in_vain()
    assert caught.value.reason == "INSUFFICIENT_CREDITS"
    with pytest.raises(NotFound):
        suite.users.GetUser(GetUserRequest(user_id=eve))
    assert balance(credits, ada) == 10
    entries = credits.ListEntries(pb.ListEntriesRequest(account_id=ada)).entries
    assert [entry.amount for entry in entries] == [10]


def test_credits_move_between_accounts_and_none_is_lost(suite: Suite) -> None:
    ada, eve = (f"{name}-{uuid.uuid4().hex}" for name in ("ada", "eve"))
    credits = suite.stub(CreditsServiceStub, "credits")
    credits.Grant(pb.GrantRequest(account_id=ada, amount=10))
    with suite.transaction() as tx:
        stub = tx.stub(CreditsServiceStub, "credits")
        stub.Spend(pb.SpendRequest(account_id=ada, amount=7))
        stub.Grant(pb.GrantRequest(account_id=eve, amount=7))
        assert (balance(stub, ada), balance(stub, eve)) == (3, 7)
    assert (balance(credits, ada), balance(credits, eve)) == (3, 7)


def test_a_balance_that_a_transaction_goes_by_stays_until_it_commits(suite: Suite) -> None:
    """Write skew: each of two spends from one account because the other has enough, and one of them must not."""
    ada, eve = (f"{name}-{uuid.uuid4().hex}" for name in ("ada", "eve"))
    credits = suite.stub(CreditsServiceStub, "credits")
    for account_id in (ada, eve):
        credits.Grant(pb.GrantRequest(account_id=account_id, amount=5))

    def spend_by_both() -> None:
        with suite.transaction() as tx:
            stub = tx.stub(CreditsServiceStub, "credits")
            assert balance(stub, ada) + balance(stub, eve) == 10
            credits.Spend(pb.SpendRequest(account_id=eve, amount=5))  # somebody else, in between
            stub.Spend(pb.SpendRequest(account_id=ada, amount=5))

    with pytest.raises(Aborted) as caught:
        spend_by_both()
    assert caught.value.reason == "READ_CHANGED"
    assert (balance(credits, ada), balance(credits, eve)) == (5, 0)


def test_the_demo_shows_what_the_readme_says() -> None:
    (shown,) = [block.output for block in blocks("sh", ROOT / "examples" / "README.md") if "demo-credits" in block.code]
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=CREDITS, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown is not None
    assert shows_the_same(shown, done.stdout), done.stdout
