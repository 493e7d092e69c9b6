"""A service that declares a kind of resource which the library cannot work with is told so at once."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import StringValue

from handfast.server.chassis.data.database import key_text
from handfast.server.chassis.start_errors import DeclarationError
from handfast.server.transactions import ParticipantTables, ResourceType, resource_table
from handfast.server.transactions.participant.tables import resource_columns
from handfast.transactions.v1.transactions_pb2 import Read


def _key() -> sa.Column[str]:
    return sa.Column("thing_id", key_text(8), primary_key=True)


@pytest.mark.parametrize("name", [*(column.name for column in resource_columns()), "key_"])
def test_a_column_with_a_name_that_the_library_needs_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=rf"^things\.{name}: the library needs this name for itself"):
        resource_table("things", sa.MetaData(), _key(), sa.Column(name, sa.Text))


def test_a_field_with_a_name_that_the_library_needs_is_refused() -> None:
    columns: list[sa.Column[Any]] = [sa.Column("value", sa.Text), sa.Column("held", sa.Boolean)]
    with pytest.raises(DeclarationError, match=r"^things\.revision: handfast\.\S+\.Read has a field of this name"):
        ResourceType(resource_table("things", sa.MetaData(), _key(), *columns), Read)


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ([], "primary key .* is one column of text of up to 128 characters"),
        ([sa.Column("id", sa.Integer, primary_key=True)], "is one column of text"),
        ([sa.Column("id", sa.LargeBinary(8), primary_key=True)], "is one column of text"),
        ([sa.Column("id", key_text(129), primary_key=True)], "up to 128 characters"),
        ([_key(), sa.Column("id", key_text(8), primary_key=True)], "is one column"),
        (
            [sa.Column("from", key_text(8), primary_key=True)],
            r"things\.from: a key has no name that is a word of Python",
        ),
        ([_key(), sa.Column("text", sa.Text, key="other")], r"things\.text: .* no `key` beside its name, not other"),
    ],
)
def test_a_table_that_the_library_cannot_work_with_is_refused(columns: list[sa.Column[Any]], rule: str) -> None:
    table = resource_table("things", sa.MetaData(), *columns)
    with pytest.raises(DeclarationError, match=rule):
        ResourceType(table, StringValue)


def test_a_table_without_the_columns_of_the_library_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"things lacks .*revision: make the table by `resource_table`"):
        ResourceType(sa.Table("things", sa.MetaData(), _key()), StringValue)


def test_a_table_that_is_there_already_is_refused() -> None:
    metadata = sa.MetaData()
    ParticipantTables(metadata)
    with pytest.raises(DeclarationError, match=r"branches: .*already defined"):
        resource_table("branches", metadata, _key())


def test_unique_values_without_the_error_of_one_that_is_taken_are_refused() -> None:
    class Unique(ResourceType[StringValue]):
        def unique_values(self, message: StringValue) -> frozenset[str]:
            return frozenset({message.value})

    with pytest.raises(DeclarationError, match="needs `taken` as well"):
        Unique(
            resource_table("things", sa.MetaData(), _key(), sa.Column("value", sa.Text, nullable=False)), StringValue
        )
