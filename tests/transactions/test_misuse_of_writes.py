"""What a handler cannot ask of its participant is an error at once: else changes would be lost without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.clock import now
from handfast.server.chassis.errors import NotStageable
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import wire
from handfast.server.transactions.participant import UnitOfWork
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.transactions.bank import ACCOUNTS, Bank, opened
from tests.transactions.participants import MINUTE

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=1, b=1) as bank:
        yield bank


@pytest.fixture(params=["plain", "staged"])
def tx(request: pytest.FixtureRequest) -> str:
    """The transaction that the calls of a test carry; empty for none."""
    return new_id() if request.param == "staged" else ""


@contextmanager
def serving(tx: str) -> Iterator[DeleteUserRequest]:
    """A block that serves a call with the request that it is given."""
    call = Call(METHOD, METHOD.path, wire.stage_metadata(tx, 1, now() + MINUTE) if tx else ())
    call.request = request = DeleteUserRequest(user_id="a", request_id="" if tx else new_id())
    token = CURRENT.set(call)
    try:
        yield request
    finally:
        CURRENT.reset(token)


def plus_one(before: Int64Value | None) -> tuple[Int64Value, StringValue]:
    return Int64Value(value=(before.value if before else 0) + 1), StringValue(value="done")


def refuse(before: Int64Value | None) -> tuple[Int64Value, StringValue]:
    raise ValueError("refused")


def test_a_second_write_of_a_call_is_refused(bank: Bank, tx: str) -> None:
    """By its request id, or the number of its call, it would be taken for a repeat of the first."""
    with serving(tx) as request:
        bank.accounts.write(request, "a", plus_one, StringValue)
        with pytest.raises(RuntimeError, match="this call has written already"):
            bank.accounts.write(request, "b", plus_one, StringValue)
    assert bank.amount("b") == 1


def test_a_call_whose_write_was_refused_may_write(bank: Bank, tx: str) -> None:
    with serving(tx) as request:
        with pytest.raises(ValueError, match="refused"):
            bank.accounts.write(request, "a", refuse, StringValue)
        bank.accounts.write(request, "a", plus_one, StringValue)


def test_a_stream_writes_once_for_each_request(bank: Bank) -> None:
    with serving("") as first:
        bank.accounts.write(first, "a", plus_one, StringValue)
        call = CURRENT.get()
        assert isinstance(call, Call)
        call.request = second = DeleteUserRequest(request_id=new_id())
        bank.accounts.write(second, "a", plus_one, StringValue)
        with pytest.raises(RuntimeError, match="this call has written already"):
            bank.accounts.write(second, "a", plus_one, StringValue)
    assert bank.amount("a") == 3


READS: dict[str, Callable[[Bank], object]] = {
    "get": lambda bank: bank.accounts.get("a"),
    "batch": lambda bank: bank.accounts.batch(["a"]),
    "revisions": lambda bank: bank.accounts.revisions(["a"]),
    "page": lambda bank: bank.accounts.page("", 5),
    "holder": lambda bank: bank.entries.holder("entry:one"),
}


@pytest.mark.parametrize("read", READS)
def test_a_work_reads_by_nothing_but_its_unit_of_work(bank: Bank, tx: str, read: str) -> None:
    """What another read finds is not locked: somebody else could change it before the work is done."""

    def work(unit: UnitOfWork) -> StringValue:
        READS[read](bank)
        unit.put(ACCOUNTS, "a", Int64Value(value=7))
        return StringValue()

    never_staged = tx and read in ("page", "holder")
    expected = NotStageable if never_staged else RuntimeError
    with serving(tx) as request, pytest.raises(expected, match=r"within the work of a write|A transaction cannot"):
        bank.participant.write(request, work, StringValue)
    assert bank.amount("a") == 1
    assert bank.left() == []
    READS[read](bank)
