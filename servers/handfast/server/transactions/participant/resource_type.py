"""What a service says of one kind of resource."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.chassis.v1 import options_pb2
from handfast.server.chassis.start_errors import DeclarationError
from handfast.server.transactions.participant.columns import ColumnMapping
from handfast.server.transactions.participant.storable import LIBRARY_COLUMNS, StorableColumns, cannot_store
from handfast.server.transactions.participant.tables import KEY_LENGTH, KIND_LENGTH

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Version(Generic[M]):
    """One state of a resource, the last transaction across services that was applied to it (empty if none was), and its
    revision.
    """

    message: M
    last_transaction_id: str
    revision: str = ""


class ResourceType(Generic[M]):
    """One kind of resource: a table of `tables.resource_table`, keyed by one text column, and a message as callers see
    it. What the kind is called is the name of the table. Columns and fields map as `columns.py` says, unless a subclass
    has `to_message` and `to_columns` of its own. Raises DeclarationError, a ValueError, where table and message do not
    fit, or a committed change could fail to be applied.
    """

    def __init__(self, table: sa.Table, message_type: type[M]) -> None:
        self.table, self.kind, self.message_type = table, str(table.name), message_type
        try:
            self.key = _key_of(table)
            self._columns = StorableColumns(table, self.key)
            if type(self).to_message is ResourceType.to_message or type(self).to_columns is ResourceType.to_columns:
                self._mapping = ColumnMapping(table, self.key.name, message_type)
        except ValueError as error:
            raise DeclarationError(str(error)) from error
        if self.has_unique_values and type(self).taken is ResourceType.taken:
            raise DeclarationError(f"{self.kind}: a type with `unique_values` needs `taken` as well")
        self._has_key_field = self.key.name in message_type.DESCRIPTOR.fields_by_name

    def to_message(self, row: Any) -> M:
        """`row` is a named tuple of the columns of the table, in their order: `row.email`."""
        message: M = self._mapping.to_message(row)
        return message

    def to_columns(self, message: M) -> Mapping[str, Any]:
        """The values of all columns but the key and those of `resource_columns`. An empty message has to be possible: a
        placeholder has its values. What it gives, `to_message` has to read as the same message.
        """
        return self._mapping.to_columns(message)

    def require(self, message: Message) -> None:
        """Raises TypeError where it is no message of this type."""
        if type(message) is not self.message_type:
            raise TypeError(f"{self.kind} are {self.message_type.__name__}, and not {type(message).__name__}")

    def require_key(self, key: str) -> None:
        """Raises InvalidValue, which names the column, where no resource can have this key."""
        self._columns.check_key(key)

    def require_unique_value(self, value: str) -> None:
        """Raises InvalidValue where nothing can have this value."""
        self._columns.check_unique_value(value)

    def stored(self, key: str, message: M) -> Mapping[str, Any]:
        """`to_columns`, of what is certain to fit; `key` has been checked. Fields that the service does not know are
        taken out of `message`. Raises InvalidValue, which names what does not fit.
        """
        if self._has_key_field and getattr(message, self.key.name) != key:
            raise cannot_store(f"{self.kind}.{self.key.name}", "must be the key")
        message.DiscardUnknownFields()
        try:
            values = self.to_columns(message)
        except (ValueError, OverflowError) as error:
            raise cannot_store(f"{self.kind}/{key}", "cannot be stored") from error
        self._columns.check(values)
        return values

    def unique_values(self, message: M) -> frozenset[str]:
        """The values that no two resources may share, each with a prefix that says what it is, another for each kind;
        none by default.
        """
        return frozenset()

    @property
    def belongs_to_subject(self) -> bool:
        """Whether its contract says that a resource belongs to the caller who has its key for a subject."""
        belongs: bool = self.message_type.DESCRIPTOR.GetOptions().Extensions[options_pb2.belongs_to_subject]
        return belongs

    @property
    def has_unique_values(self) -> bool:
        """Whether this kind of resource has any."""
        return type(self).unique_values is not ResourceType.unique_values

    def taken(self, value: str) -> Exception:
        """The error of a write that wants a unique value which another resource holds."""
        raise NotImplementedError

    def is_erased(self, message: M | None) -> bool:
        """Whether nothing personal is left of a resource that a write has made this, None where it has deleted it, as
        is the default. What calls about it were answered before is erased then, and no repeat of them gets it.
        """
        return message is None

    def decoded(self, image: bytes | None) -> M | None:
        """The resource as an operation leaves it; None where it is deleted."""
        return None if image is None else self.message_type.FromString(image)

    def placeholder(self, key: str) -> dict[str, Any]:
        """The columns of a row that stands for a resource which does not exist."""
        return {**self.to_columns(self.message_type()), self.key.name: key, "present": False}


def _key_of(table: sa.Table) -> sa.Column[Any]:
    """The key of a table of resources. Raises ValueError where the library cannot work with the table."""
    if len(table.name) > KIND_LENGTH:
        raise ValueError(f"{table.name}: the name of a table of resources has up to {KIND_LENGTH} characters")
    if lacking := sorted(LIBRARY_COLUMNS - set(table.columns.keys())):
        raise ValueError(f"{table.name} lacks {', '.join(lacking)}: make the table by `resource_table`")
    for column in table.columns:
        if column.key != column.name:
            raise ValueError(f"{column}: a column of resources has no `key` beside its name, not {column.key}")
    match list(table.primary_key):
        case [sa.Column(type=sa.String(length=int(length))) as key] if length <= KEY_LENGTH:
            pass
        case _:
            raise ValueError(
                f"{table.name}: the primary key of a table of resources is one column of text of up to {KEY_LENGTH} "
                "characters, as `key_text` makes it"
            )
    if keyword.iskeyword(key.name) or key.name.startswith("_"):
        raise ValueError(f"{key}: a key has no name that is a word of Python or begins with an underscore")
    return key
