"""The guided tour: an account made, changed on both sides, changed in vain, and deleted."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import click
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    DeleteAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import NotFound, ServiceError, Suite
from handfast.client.transaction_metadata import TRANSACTION_ID
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences
from handfast.users.v1.users_pb2 import GetUserRequest, User


class DemoError(Exception):
    """The demo cannot go on, for a reason that its reader can act on."""


def tour(suite: Suite) -> None:
    """Makes an account in `suite`, changes it, and deletes it, and prints what the services say. Raises ServiceError
    for a failure that is no part of the tour, and DemoError if atomicity is broken."""
    user_id = f"ada-{uuid.uuid4().hex[:12]}"  # new each time, as ids and emails are unique
    with _cleaning_up(suite, user_id):
        _create(suite, user_id)
        _update(suite, user_id)
        _update_in_vain(suite, user_id)
        _delete(suite, user_id)
    click.echo("\nDone: what spans services commits everywhere or nowhere.")


@contextlib.contextmanager
def _cleaning_up(suite: Suite, user_id: str) -> Iterator[None]:
    """Whatever ends the tour before its end, Ctrl-C or `| head` too: no account stays behind."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ServiceError):
            suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))
        raise


def _create(suite: Suite, user_id: str) -> None:
    _step("1. Create an account: a user in one service, preferences in another.")
    email = f"{user_id}@example.com"
    user = User(user_id=user_id, email=email, display_name="Ada Lovelace")
    created = suite.accounts.CreateAccount(CreateAccountRequest(user=user, preferences=_theme("dark")))
    seen = _look(suite, user_id)
    _show("users", f"email {email}, display name {seen.display_name!r}")
    _show("preferences", f"theme {seen.theme}")
    _show("transaction", f"{created.transaction_id} committed")


def _update(suite: Suite, user_id: str) -> None:
    _step("2. Change both sides in one call.")
    before = _look(suite, user_id)
    updated = suite.accounts.UpdateUserAndPreferences(
        UpdateUserAndPreferencesRequest(
            user=User(user_id=user_id, display_name="Countess of Lovelace"),
            user_update_mask=FieldMask(paths=["display_name"]),
            preferences=_theme("light"),
            preferences_update_mask=FieldMask(paths=["values.theme"]),
        )
    )
    after = _look(suite, user_id)
    if after != _Seen("Countess of Lovelace", "light"):
        raise DemoError(f"the update committed, but the services answer {after}")
    _show("users", f"display name {before.display_name!r} -> {after.display_name!r}")
    _show("preferences", f"theme {before.theme} -> {after.theme}")
    _show("transaction", f"{updated.transaction_id} committed")


def _update_in_vain(suite: Suite, user_id: str) -> None:
    _step("3. Change both sides again, where one of them must refuse: no preference has the key 'favourite_colour'.")
    before = _look(suite, user_id)
    _show("asked of users", f"display name {before.display_name!r} -> 'Nobody'")
    _show("asked of preferences", "favourite_colour -> green")
    try:
        suite.accounts.UpdateUserAndPreferences(
            UpdateUserAndPreferencesRequest(
                user=User(user_id=user_id, display_name="Nobody"),
                user_update_mask=FieldMask(paths=["display_name"]),
                preferences=Preferences(values={"favourite_colour": Value(string_value="green")}),
                preferences_update_mask=FieldMask(paths=["values.favourite_colour"]),
            )
        )
    except ServiceError as error:
        if error.service != "handfast.preferences":
            raise
        refusal = error
    else:
        raise DemoError("a preference without a definition was accepted")
    _show("refused by", f"{refusal.service}, {refusal.status.name} {refusal.reason}")
    for violation in refusal.violations:
        _show("", f"{violation.field}: {violation.description} ({violation.reason})")
    _show("request id", refusal.request_id)
    if transaction_id := _transaction_id(refusal):
        _show("transaction", f"{transaction_id} aborted")
    after = _look(suite, user_id)
    if after != before:
        raise DemoError(f"the update was refused, but {before} became {after}")
    _show("users", f"display name is still {after.display_name!r}")
    _show("preferences", f"theme is still {after.theme}")


def _delete(suite: Suite, user_id: str) -> None:
    _step("4. Delete the account, on both sides.")
    deleted = suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))
    try:
        suite.users.GetUser(GetUserRequest(user_id=user_id))
    except NotFound as error:
        _show("users", f"{error.status.name} {error.reason}")
    _show("preferences", f"theme {_stored_theme(suite, user_id)}")
    _show("transaction", f"{deleted.transaction_id} committed")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the two services say, each asked by itself."""

    display_name: str
    theme: str


def _look(suite: Suite, user_id: str) -> _Seen:
    user = suite.users.GetUser(GetUserRequest(user_id=user_id)).user
    return _Seen(user.display_name, _stored_theme(suite, user_id))


def _stored_theme(suite: Suite, user_id: str) -> str:
    preferences = suite.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)).preferences
    # Asked for by name, a map of messages would make the entry.
    return preferences.values["theme"].string_value if "theme" in preferences.values else "unset"


def _theme(theme: str) -> Preferences:
    return Preferences(values={"theme": Value(string_value=theme)})


def _transaction_id(error: ServiceError) -> str:
    return next((str(value) for key, value in error.trailing_metadata() if key == TRANSACTION_ID), "")


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)


def _show(what: str, text: str) -> None:
    click.echo(f"   {what:<22}{text}")
