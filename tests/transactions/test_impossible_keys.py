"""Keys and unique values that no resource can have are refused alike on every database, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from handfast.server.chassis.errors import InvalidValue
from handfast.server.chassis.ids import new_id
from tests.transactions.bank import ACCOUNTS, Bank, Work, delete, enter, look, opened, put

WRONG = {
    "a\n": "must not have control characters",
    "\ud800": "must not have half of a surrogate pair",
    "a\0b": "must not have the character NUL",
    65 * "x": "must have at most 64 characters",
}
READS: dict[str, Callable[[Bank, str], object]] = {
    "get": lambda bank, key: bank.accounts.get(key),
    "batch": lambda bank, key: bank.accounts.batch(["a", key]),
    "revisions": lambda bank, key: bank.accounts.revisions(["a", key]),
    "page after": lambda bank, key: bank.accounts.page(key, 5),
    "page with a prefix": lambda bank, key: bank.accounts.page("", 5, key),
}
WRITES: dict[str, Callable[[str], Work]] = {
    "put": lambda key: put(key, 1),
    "delete": delete,
    "look": look,
    "lock": lambda key: _lock(key),
}


def _lock(key: str) -> Work:
    return lambda unit: unit.lock(ACCOUNTS, ["a", key])


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=5) as bank:
        yield bank


@pytest.mark.parametrize("key", WRONG, ids=["control", "surrogate", "nul", "long"])
@pytest.mark.parametrize("read", READS)
def test_a_read_of_a_key_that_none_can_have_is_refused(bank: Bank, read: str, key: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^accounts\.account_id: {WRONG[key]}\.$"):
        READS[read](bank, key)


@pytest.mark.parametrize("key", WRONG, ids=["control", "surrogate", "nul", "long"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("staged", [False, True])
def test_a_write_of_a_key_that_none_can_have_is_refused(bank: Bank, write: str, key: str, staged: bool) -> None:
    work = WRITES[write](key)
    with pytest.raises(InvalidValue, match=rf"^accounts\.account_id: {WRONG[key]}\.$"):
        bank.stage(new_id(), 1, work) if staged else bank.write(work)
    assert bank.left() == []


@pytest.mark.parametrize(
    ("value", "rule"), [*list(WRONG.items())[1:3], (601 * "\u4e00", "must have at most 600 characters")], ids=str
)
def test_a_unique_value_that_none_can_have_is_refused(bank: Bank, value: str, rule: str) -> None:
    expected = rf"^entries: a unique value {rule}\.$"
    with pytest.raises(InvalidValue, match=expected):
        bank.entries.holder(value)
    if value.isprintable():  # else it is no text of a message either
        with pytest.raises(InvalidValue, match=expected):
            bank.write(enter("a", value))
    assert bank.left() == []


@pytest.mark.parametrize("use", ["get", "batch", "put", "lock"])
def test_no_key_is_empty(bank: Bank, use: str) -> None:
    """A list begins after it, and no name of a resource ends with the slash."""
    with pytest.raises(InvalidValue, match=r"^accounts\.account_id: must not be empty\.$"):
        READS[use](bank, "") if use in READS else bank.write(WRITES[use](""))
    assert bank.left() == []
