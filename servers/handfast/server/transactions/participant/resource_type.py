"""What a service says of one kind of resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Version(Generic[M]):
    """One state of a resource, and the last transaction across services that was applied to it (empty if none was)."""

    message: M
    last_transaction_id: str


class ResourceType(Generic[M]):
    """One kind of resource: a table with the columns of `tables.resource_columns`, keyed by one text column, and a
    message as callers see it. A subclass sets the attributes and says how a row and a message map:

        class UserResources(ResourceType[User]):
            table = users
            key = users.c.user_id
            message_type = User
    """

    table: sa.Table
    key: sa.Column[str]
    message_type: type[M]

    def to_message(self, row: Any) -> M:
        """`row` has the columns of the table as attributes: `row.email`."""
        raise NotImplementedError

    def to_columns(self, message: M) -> Mapping[str, Any]:
        """The values of all columns but the key and those of `resource_columns`."""
        raise NotImplementedError

    def unique_values(self, message: M) -> frozenset[str]:
        """The values that no two resources may share, each with a prefix that says what it is; none by default."""
        return frozenset()

    @property
    def has_unique_values(self) -> bool:
        """Whether this kind of resource has any."""
        return type(self).unique_values is not ResourceType.unique_values

    def taken(self, value: str) -> Exception:
        """The error of a write that wants a unique value which another resource holds."""
        raise NotImplementedError
