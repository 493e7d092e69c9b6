from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.calls import fields_at_fault, refusal
from tests.people import create_user, new_email, new_id

BEFORE: dict[str, Any] = {
    "display_name": "Ada",
    "locale": "pt-BR",
    "time_zone": "Europe/Lisbon",
    "labels": {"team": "red", "floor": "2"},
}


@pytest.fixture
def user(client: Suite) -> User:
    asked = User(email=new_email(), **BEFORE)
    return client.users.CreateUser(CreateUserRequest(user=asked)).user


def update(client: Suite, user_id: str, *paths: str, **fields: Any) -> User:
    """The user after an update of these paths, or of those that are implied where there are none."""
    request = UpdateUserRequest(user=User(user_id=user_id, **fields), update_mask=FieldMask(paths=paths))
    return client.users.UpdateUser(request).user


def fields_of(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in BEFORE} | {"email": user.email}


@pytest.mark.parametrize(
    ("paths", "sent", "changed"),
    [
        (["display_name"], {"display_name": "Grace", "locale": "en"}, {"display_name": "Grace"}),
        (["display_name"], {"locale": "en"}, {"display_name": ""}),
        (["locale"], {}, {"locale": ""}),
        (["time_zone"], {}, {"time_zone": ""}),
        (["locale", "time_zone", "locale"], {"locale": "en"}, {"locale": "en", "time_zone": ""}),
        (["labels"], {"labels": {"team": "blue"}}, {"labels": {"team": "blue"}}),
        (["labels"], {}, {"labels": {}}),
        (["labels.team"], {"labels": {"team": "blue", "floor": "9"}}, {"labels": {"team": "blue", "floor": "2"}}),
        (["labels.team"], {}, {"labels": {"floor": "2"}}),
        (["labels.desk"], {"labels": {"desk": "7"}}, {"labels": {"team": "red", "floor": "2", "desk": "7"}}),
        (["labels.desk"], {}, {}),
        (["labels.team", "labels.desk"], {"labels": {"desk": "7"}}, {"labels": {"floor": "2", "desk": "7"}}),
        ([], {"display_name": "Grace", "locale": "en"}, {"display_name": "Grace", "locale": "en"}),
        ([], {"labels": {"team": "blue"}}, {"labels": {"team": "blue"}}),
        ([], {}, {}),
    ],
    ids=str,
)
def test_an_update_changes_what_the_mask_names_and_nothing_else(
    client: Suite, user: User, paths: list[str], sent: dict[str, Any], changed: dict[str, Any]
) -> None:
    after = update(client, user.user_id, *paths, **sent)
    assert fields_of(after) == {**BEFORE, "email": user.email, **changed}
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == after


def test_a_star_changes_all_fields(client: Suite, user: User) -> None:
    email = new_email()
    after = update(client, user.user_id, "*", email=email, locale="en")
    assert fields_of(after) == {"email": email, "display_name": "", "locale": "en", "time_zone": "", "labels": {}}


def test_fields_outside_of_the_mask_are_not_looked_at(client: Suite, user: User) -> None:
    after = update(client, user.user_id, "locale", locale="en", email="nobody", display_name="a" * 201)
    assert fields_of(after) == {**BEFORE, "email": user.email, "locale": "en"}


def test_a_mask_of_too_many_paths_is_refused_as_a_whole(client: Suite, user: User) -> None:
    request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["odd"] * 1001))
    assert fields_at_fault(client.users.UpdateUser, request) == ["update_mask"]


def test_a_mask_of_as_many_paths_as_it_can_have_is_taken(client: Suite, user: User) -> None:
    after = update(client, user.user_id, *["locale"] * 1000, locale="en")
    assert fields_of(after) == {**BEFORE, "email": user.email, "locale": "en"}


@pytest.mark.parametrize(
    "path",
    [
        "nickname", "user.etag", "Etag", "create", "user.locale", "Locale", "email.domain", "display_name.",
        "labels.", "labels.A", "labels.a.b", f"labels.{'k' * 64}", ".", "", "**",
    ],
)  # fmt: skip
def test_a_path_that_a_mask_cannot_have_is_refused(client: Suite, user: User, path: str) -> None:
    request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["locale", path]))
    assert fields_at_fault(client.users.UpdateUser, request) == ["update_mask"]


def test_a_star_stands_alone(client: Suite, user: User) -> None:
    request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["*", "locale"]))
    assert fields_at_fault(client.users.UpdateUser, request) == ["update_mask"]


@pytest.mark.parametrize("path", ["email", "*"])
def test_an_email_cannot_be_cleared(client: Suite, user: User, path: str) -> None:
    request = UpdateUserRequest(user=User(user_id=user.user_id), update_mask=FieldMask(paths=[path]))
    assert fields_at_fault(client.users.UpdateUser, request) == ["user.email"]


def test_a_label_is_checked_where_it_alone_changes(client: Suite, user: User) -> None:
    asked = User(user_id=user.user_id, labels={"team": "x" * 257, "floor": "y" * 257})
    request = UpdateUserRequest(user=asked, update_mask=FieldMask(paths=["labels.team"]))
    assert fields_at_fault(client.users.UpdateUser, request) == ["user.labels.team"]


def test_a_user_with_64_labels_takes_another_only_in_the_place_of_one(client: Suite) -> None:
    asked = User(email=new_email(), labels={f"key{number}": "" for number in range(64)})
    user_id = client.users.CreateUser(CreateUserRequest(user=asked)).user.user_id
    one_more = UpdateUserRequest(
        user=User(user_id=user_id, labels={"more": "x"}), update_mask=FieldMask(paths=["labels.more"])
    )
    assert fields_at_fault(client.users.UpdateUser, one_more) == ["user.labels"]
    after = update(client, user_id, "labels.more", "labels.key0", labels={"more": "x"})
    assert len(after.labels) == 64


def test_an_update_gives_a_new_etag_and_update_time(client: Suite, user: User) -> None:
    after = update(client, user.user_id, locale="en")
    assert after.etag not in ("", user.etag)
    assert after.update_time.ToNanoseconds() > user.update_time.ToNanoseconds()
    assert after.create_time == user.create_time


def test_output_only_fields_cannot_be_changed(client: Suite, user: User) -> None:
    asked = User()
    asked.CopyFrom(user)
    asked.create_time.Clear()
    asked.update_time.Clear()
    after = client.users.UpdateUser(UpdateUserRequest(user=asked)).user
    assert (after.create_time, after.update_time) == (user.create_time, user.update_time)


def test_an_update_that_changes_nothing_keeps_the_etag(client: Suite, user: User) -> None:
    asked = User(user_id=user.user_id, display_name=user.display_name)
    assert client.users.UpdateUser(UpdateUserRequest(user=asked)).user == user


def test_what_was_read_can_be_written_back(client: Suite, user: User) -> None:
    after = client.users.UpdateUser(UpdateUserRequest(user=user, update_mask=FieldMask(paths=["*"]))).user
    assert fields_of(after) == fields_of(user)


def test_a_mask_may_name_all_fields_of_what_was_read(client: Suite, user: User) -> None:
    changed = User()
    changed.CopyFrom(user)
    changed.locale = "fr"
    changed.create_time.Clear()
    mask = FieldMask(paths=[*User.DESCRIPTOR.fields_by_name, "create_time.seconds"])
    after = client.users.UpdateUser(UpdateUserRequest(user=changed, update_mask=mask)).user
    assert fields_of(after) == {**fields_of(user), "locale": "fr"}
    assert after.create_time == user.create_time


@pytest.mark.parametrize("path", ["user_id", "create_time", "update_time", "etag"])
def test_a_mask_of_what_no_update_changes_changes_nothing(client: Suite, user: User, path: str) -> None:
    asked = User(user_id=user.user_id, locale="fr")
    request = UpdateUserRequest(user=asked, update_mask=FieldMask(paths=[path]))
    assert client.users.UpdateUser(request).user == user


def test_a_user_who_is_not_there_cannot_be_updated(client: Suite) -> None:
    user_id = new_id()
    for etag in ("", "stale"):
        request = UpdateUserRequest(user=User(user_id=user_id, locale="en", etag=etag))
        error = refusal(client.users.UpdateUser, request)
        assert (error.status, error.service) == (grpc.StatusCode.NOT_FOUND, "handfast.users")
        assert (error.reason, error.metadata, error.retryable) == ("USER_NOT_FOUND", {"user_id": user_id}, False)


def test_the_etag_of_each_answer_is_good_for_the_next_update(client: Suite) -> None:
    user = create_user(client)
    for locale in ("en", "pt", "de"):
        user = update(client, user.user_id, locale=locale, etag=user.etag)
    assert user.locale == "de"
    assert update(client, user.user_id, locale="fr").locale == "fr"


@pytest.mark.parametrize("path", ["locale", "*"])
def test_a_stale_etag_is_refused_and_changes_nothing(client: Suite, user: User, path: str) -> None:
    now = update(client, user.user_id, locale="en")
    user.locale = "fr"
    error = refusal(client.users.UpdateUser, UpdateUserRequest(user=user, update_mask=FieldMask(paths=[path])))
    assert (error.status, error.service) == (grpc.StatusCode.ABORTED, "handfast.users")
    assert (error.reason, error.metadata) == ("USER_CHANGED", {"user_id": user.user_id})
    assert not error.retryable
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == now
