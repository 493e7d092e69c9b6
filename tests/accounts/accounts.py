"""Requests about accounts, in short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    Account,
    CreateAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.chassis.server import Server
from handfast.users.v1.users_pb2 import User
from tests.people import new_email

StartServer = Callable[[str], Server]
"""Starts an accounts server with preferences at an address."""
StartAccounts = Callable[[str], Suite]
"""The same, and gives a client of it."""


def text(value: str) -> Value:
    return Value(string_value=value)


def create_account(client: Suite, theme: str = "light", **fields: Any) -> Account:
    """An account as stored; `fields` are the user's, beside an email of its own."""
    user = User(**{"email": new_email(), **fields})
    request = CreateAccountRequest(user=user, preferences=Preferences(values={"theme": text(theme)}))
    return client.accounts.CreateAccount(request).account


def get_account(client: Suite, user_id: str) -> Account:
    return client.accounts.GetAccount(GetAccountRequest(user_id=user_id)).account


def update(user: User, preferences: Preferences, request_id: str = "") -> UpdateUserAndPreferencesRequest:
    return UpdateUserAndPreferencesRequest(user=user, preferences=preferences, request_id=request_id)
