"""Users that no other test has."""

from __future__ import annotations

import uuid
from typing import Any

from handfast.client import Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, User


def new_id() -> str:
    return str(uuid.uuid4())


def new_email() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def create_user(client: Suite, **fields: Any) -> User:
    """A user as stored; `fields` beside an email of its own."""
    asked = User(**{"email": new_email(), **fields})
    return client.users.CreateUser(CreateUserRequest(user=asked)).user
