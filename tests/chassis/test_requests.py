"""Rules for requests, at their borders: through the services only some of them are met."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.server.chassis.errors import ResponseTooLarge, Violations
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT
from handfast.server.chassis.requests import fields, paging
from handfast.server.chassis.requests.paging import ReplyRoom
from handfast.users.v1.users_pb2 import ListUsersRequest, ListUsersResponse, User


def found(violations: Violations) -> list[str]:
    return [each.description for each in violations]


@pytest.mark.parametrize(
    ("reason", "taken"),
    [("A", True), ("A_B2", True), ("A" * 10, True), ("A" * 11, False), ("a", False), ("", False), ("A__B", False)],
)
def test_a_reason_is_in_upper_case_and_not_too_long(reason: str, taken: bool) -> None:
    violations = Violations()
    fields.check_reason(violations, "reason", reason, 10)
    assert (found(violations) == []) is taken


@pytest.mark.parametrize(
    ("seconds", "nanos", "microseconds"),
    [
        (0, 1000, 1),
        (1, 999_999_999, 1_999_999),
        (60, 0, 60_000_000),
        (60, 1, None),
        (61, 0, None),
        (0, 0, None),
        (-1, 0, None),
        (0, -1, None),
        (1, -1, None),
        (-1, 1, None),
        (1, 1_000_000_000, None),
        (1, 999_999_999 + 10**9, None),
    ],
)
def test_a_duration_is_well_formed_and_within_its_limit(seconds: int, nanos: int, microseconds: int | None) -> None:
    violations = Violations()
    taken = fields.duration_microseconds(violations, "d", Duration(seconds=seconds, nanos=nanos), 60)
    assert (taken if not found(violations) else None) == microseconds


@pytest.mark.parametrize(
    ("key", "taken"),
    [("a", True), ("a1_b", True), ("a" * 63, True), ("a" * 64, False), ("", False), ("A", False), ("a_", False)],
)
def test_a_key_is_narrow_and_not_too_long(key: str, taken: bool) -> None:
    violations = Violations()
    assert fields.check_key(violations, "labels", key) is taken
    assert (found(violations) == []) is taken


@pytest.mark.parametrize(("length", "taken"), [(9, True), (10, True), (11, False)])
def test_a_text_may_be_as_long_as_is_said(length: int, taken: bool) -> None:
    violations = Violations()
    fields.check_text(violations, "text", "ä" * length, 10)
    assert (found(violations) == []) is taken


@pytest.mark.parametrize("value", ["a\n", "\x00", "a\x7fb"])
def test_a_text_has_no_control_characters(value: str) -> None:
    violations = Violations()
    fields.check_text(violations, "text", value, 10)
    assert found(violations) == ["must not have control characters"]


@pytest.mark.parametrize(
    ("values", "one_by_one", "complaints"),
    [
        ([], False, 1),
        (["a"], True, 0),
        (["a", "b", "c"], True, 0),
        (["a", "b", "c", "d"], False, 1),
        (["a", "b", "a"], True, 1),
    ],
    ids=str,
)
def test_a_batch_has_as_many_entries_as_are_said_each_once(
    values: list[str], one_by_one: bool, complaints: int
) -> None:
    violations = Violations()
    assert fields.check_batch(violations, "ids", values, 3) is one_by_one
    assert len(found(violations)) == complaints


@pytest.mark.parametrize(("number", "taken"), [(1000, True), (1001, False)])
def test_a_mask_has_up_to_a_thousand_paths(number: int, taken: bool) -> None:
    violations = Violations()
    mask = FieldMask(paths=[f"labels.key{n}" for n in range(number)])
    paths = fields.masked_paths(violations, mask, maps=("labels",), implied=())
    assert paths == (tuple(mask.paths) if taken else ())
    assert (found(violations) == []) is taken


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (999, 999), (1000, 1000), (1001, 1000)])
def test_a_page_has_what_was_asked_for_up_to_a_thousand_and_fifty_by_default(asked: int, size: int) -> None:
    violations = Violations()
    assert paging.check_page(violations, ListUsersRequest(page_size=asked), "users") == ("", size)
    assert found(violations) == []


@pytest.mark.parametrize(
    "token", ["%", "YQ", "YQ==", paging.page_token("other", "a"), paging.page_token("users", "\0")]
)
def test_a_token_of_another_list_or_of_none_is_refused(token: str) -> None:
    violations = Violations()
    assert paging.check_page(violations, ListUsersRequest(page_token=token), "users") == ("", 50)
    assert len(found(violations)) == 1


def test_a_token_says_where_to_go_on() -> None:
    assert paging.page_token("users", "") == ""
    assert paging.require_page(ListUsersRequest(), "users") == ("", 50)
    for key in ("a b~é", "\u00a0", "a\u200d\U0001f680", "\u2028"):  # all that a key can be
        token = paging.page_token("users", key)
        assert paging.require_page(ListUsersRequest(page_token=token), "users") == (key, 50)


def test_a_page_ends_where_its_entries_do_or_at_the_limit() -> None:
    keys = [f"{number:04}" for number in range(350)]
    asked: list[int] = []

    def read(after: str, count: int) -> tuple[list[tuple[str, User | None]], bool]:
        asked.append(count)
        left = [key for key in keys if key > after]
        return [(key, None if key.endswith("7") else User(user_id=key)) for key in left[:count]], len(left) > count

    def page(after: str, limit: int) -> tuple[list[str], str]:
        users, next_after = paging.read_page(read, after, limit)
        return [user.user_id for user in users], next_after

    def shown(start: int, end: int) -> list[str]:
        return [key for key in keys[start:end] if not key.endswith("7")]

    assert page("", 225) == (shown(0, 250), "0249")
    assert asked == [100, 100, 45, 4, 1]
    assert page("0249", 89) == (shown(250, 349), "0348")
    assert page("0249", 90) == (shown(250, 350), "")
    assert page("0345", 1) == (["0346"], "0346")
    assert page("0346", 1) == (["0348"], "0348")
    assert page("0349", 1) == ([], "")


@pytest.mark.parametrize("limit", [1, 50, 1000])
def test_keys_without_an_entry_are_passed_over_in_bounded_calls(limit: int) -> None:
    keys = [f"{number:04}" for number in range(2300)]
    asked: list[int] = []

    def read(after: str, count: int) -> tuple[list[tuple[str, User | None]], bool]:
        asked.append(count)
        left = [key for key in keys if key > after]
        return [(key, User(user_id=key) if key >= "2290" else None) for key in left[:count]], len(left) > count

    pages, after = [], ""
    while True:
        users, after = paging.read_page(read, after, limit)
        pages.append([user.user_id for user in users])
        if not after:
            break
    assert [key for page in pages for key in page] == keys[2290:]
    assert sum(not page for page in pages) == 2
    assert max(asked) <= 100
    assert len(asked) <= 30 + len(pages)


def test_one_entry_always_fits_on_a_page() -> None:
    large = User(display_name="x" * DEFAULT_MESSAGE_LIMIT)
    users, after = paging.read_page(lambda _after, _count: ([("a", large), ("b", User(user_id="b"))], False), "", 50)
    assert (users, after) == ([large], "a")


@pytest.mark.parametrize("size", [1, 100, 20_000, 1_000_000])
def test_what_has_room_fits_into_a_reply_and_little_room_is_lost(size: int) -> None:
    entry = User(display_name="x" * size)
    room, taken = ReplyRoom(), 0
    while room.take(entry):
        taken += 1
    reply = ListUsersResponse(users=[entry] * taken)
    assert reply.ByteSize() + 100_000 <= DEFAULT_MESSAGE_LIMIT  # which a token, or ids that are missing, may need
    assert (taken + 1) * (entry.ByteSize() + 6) + 132_000 > DEFAULT_MESSAGE_LIMIT
    with pytest.raises(ResponseTooLarge):
        room.require(entry)
