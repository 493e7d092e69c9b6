"""Users as rows and as messages, and their unique values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handfast.server.transactions.participant import ResourceType
from handfast.server.users.emails import email_claim
from handfast.server.users.errors import EmailTaken
from handfast.server.users.tables import users
from handfast.users.v1.users_pb2 import User


class UserResources(ResourceType[User]):
    def __init__(self) -> None:
        super().__init__(users, User)

    def to_message(self, row: Any) -> User:
        user = User(
            user_id=row.user_id,
            email=row.email,
            display_name=row.display_name,
            locale=row.locale,
            time_zone=row.time_zone,
            labels=row.labels,
            etag=row.etag,
        )
        user.create_time.FromMicroseconds(row.create_time)
        user.update_time.FromMicroseconds(row.update_time)
        return user

    def to_columns(self, message: User) -> Mapping[str, Any]:
        return {
            "email": message.email,
            "display_name": message.display_name,
            "locale": message.locale,
            "time_zone": message.time_zone,
            "labels": dict(message.labels),
            "create_time": message.create_time.ToMicroseconds(),
            "update_time": message.update_time.ToMicroseconds(),
            "etag": message.etag,
        }

    def unique_values(self, message: User) -> frozenset[str]:
        return frozenset({email_claim(message.email)})

    def taken(self, value: str) -> Exception:
        return EmailTaken()
