"""What each field of a user takes, on create and on update alike."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from handfast.client import Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, UpdateUserRequest, User
from tests.calls import fields_at_fault
from tests.people import create_user, new_email, new_id

DOMAIN_OF_189 = ".".join(["b" * 63, "c" * 63, "d" * 57, "com"])
DOMAIN_OF_190 = ".".join(["b" * 63, "c" * 63, "d" * 58, "com"])
UNIQUE_OF_64 = "a" * 32 + "{}"  # 32 hexadecimal digits go in

by_create_and_update = pytest.mark.parametrize("by", ["create", "update"])


def store(client: Suite, by: str, **fields: Any) -> User:
    if by == "create":
        return client.users.CreateUser(CreateUserRequest(user=User(**{"email": new_email(), **fields}))).user
    user_id = create_user(client).user_id
    return client.users.UpdateUser(UpdateUserRequest(user=User(user_id=user_id, **fields))).user


def refused_fields(client: Suite, by: str, **fields: Any) -> list[str]:
    if by == "create":
        request = CreateUserRequest(user=User(**{"email": new_email(), **fields}))
        return fields_at_fault(client.users.CreateUser, request)
    return fields_at_fault(client.users.UpdateUser, UpdateUserRequest(user=User(user_id=new_id(), **fields)))


@by_create_and_update
@pytest.mark.parametrize(
    "pattern",
    [
        "{}@example.com", "{}@mail.example.co.uk", "ADA.{}@Example.COM", "o'hara+{}@example.com", "josé.{}@example.com",
        "{}@münchen.example.org", "ada@{}.example.com", f"{UNIQUE_OF_64}@{DOMAIN_OF_189}",
    ],
)  # fmt: skip
def test_an_email_is_kept_as_it_was_written(client: Suite, by: str, pattern: str) -> None:
    email = pattern.format(uuid.uuid4().hex)
    assert store(client, by, email=email).email == email


@by_create_and_update
@pytest.mark.parametrize(
    "pattern",
    [
        "{}", "{}@", "@{}.example.com", "{}@example", "{} @example.com", " {}@example.com", "{}@example.com\n",
        "{}@@example.com", "{}@exam ple.com", "Ada <{}@example.com>", "a..{}@example.com",
        f"{UNIQUE_OF_64}@{DOMAIN_OF_190}",
    ],
)  # fmt: skip
def test_what_is_no_email_address_of_up_to_254_characters_is_refused(client: Suite, by: str, pattern: str) -> None:
    assert refused_fields(client, by, email=pattern.format(uuid.uuid4().hex)) == ["user.email"]


def test_an_error_about_an_email_does_not_quote_it(client: Suite) -> None:
    with pytest.raises(Exception, match=r"user\.email") as caught:
        store(client, "create", email="someone secret")
    assert "secret" not in str(caught.value)


@by_create_and_update
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("display_name", "a" * 200),
        ("display_name", "ą" * 200),
        ("display_name", "👩" * 200),
        ("display_name", "Åsa 王小明 עדה 👩‍🚀 'DROP TABLE'; %s {}"),
        ("locale", "pt"),
        ("locale", "pt-BR"),
        ("locale", "zh-Hant-TW"),
        ("locale", "de-DE-1996"),
        ("locale", "en-US-u-ca-gregory"),
        ("time_zone", "Europe/Lisbon"),
        ("time_zone", "America/Argentina/Buenos_Aires"),
        ("time_zone", "UTC"),
        ("time_zone", "Etc/GMT+12"),
        ("labels", {f"key{number}": "" for number in range(64)}),
        ("labels", {"a": "ą" * 256}),
        ("labels", {"k" * 63: "x"}),
        ("labels", {"a1_b2_c3": "x"}),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_field_is_stored_as_it_was_sent(client: Suite, by: str, field: str, value: Any) -> None:
    assert getattr(store(client, by, **{field: value}), field) == value


@by_create_and_update
@pytest.mark.parametrize(
    ("field", "value", "at_fault"),
    [
        ("display_name", "a" * 201, "user.display_name"),
        ("display_name", "ą" * 201, "user.display_name"),
        *(("display_name", f"a{control}b", "user.display_name") for control in "\0\n\r\t\x1b\x7f\x85"),
        *(
            ("locale", locale, "user.locale")
            for locale in ("pt_BR", "english", "en-", "-en", "en--US", " en", "xx-INVALID", "é", "C")
        ),
        *(
            ("time_zone", time_zone, "user.time_zone")
            for time_zone in ("Lisbon", "europe/lisbon", "Europe", "Europe/", "UTC+1", "../UTC", "localtime", " UTC")
        ),
        ("labels", {f"key{number}": "" for number in range(65)}, "user.labels"),
        ("labels", {f"not a key {number}": "\0" for number in range(65)}, "user.labels"),
        ("labels", {"a": "x" * 257}, "user.labels.a"),
        *(
            ("labels", {key: "x"}, "user.labels")
            for key in ("", "A", "1a", "_a", "a_", "a__b", "a-b", "a.b", "a b", "ä", "a\n", "k" * 64)
        ),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_field_that_breaks_its_rule_is_refused(client: Suite, by: str, field: str, value: Any, at_fault: str) -> None:
    assert refused_fields(client, by, **{field: value}) == [at_fault]


@by_create_and_update
def test_all_violations_come_at_once(client: Suite, by: str) -> None:
    wrong = User(
        user_id="Not an id",
        email="nobody",
        display_name="a\n" * 101,
        locale="english",
        time_zone="Lisbon",
        labels={"Bad": "x", "long": "x" * 257},
    )
    expected = [
        "request_id", "user.display_name", "user.display_name", "user.email", "user.labels", "user.labels.long",
        "user.locale", "user.time_zone", "user.user_id",
    ]  # fmt: skip
    if by == "create":
        request = CreateUserRequest(user=wrong, request_id="once")
        assert fields_at_fault(client.users.CreateUser, request) == expected
    else:
        update = UpdateUserRequest(user=wrong, request_id="once")
        assert fields_at_fault(client.users.UpdateUser, update) == expected
