"""How columns and fields map where a service does not say so itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value

from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_STRING, PreferenceDefinition
from handfast.server.chassis.data.database import Database, key_text
from handfast.server.transactions import ResourceType, resource_table
from handfast.transactions.v1.transactions_pb2 import Transaction, TransactionBranch
from handfast.users.v1.users_pb2 import User

metadata = sa.MetaData()
users = resource_table(
    "users",
    metadata,
    sa.Column("user_id", key_text(64), primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("email", "display_name", "locale", "time_zone", "etag")),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger),
)
definitions = resource_table(
    "definitions",
    metadata,
    sa.Column("key", key_text(64), primary_key=True),
    sa.Column("type", sa.Integer, nullable=False),
    sa.Column("default_value", sa.JSON(none_as_null=True)),
    sa.Column("allowed_values", sa.JSON, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger),
)

EMPTY, FULL = User(user_id="ada"), User(user_id="ada", email="Ada@example.com", labels={"a": "1", "b": ""}, etag="x")
FULL.create_time.FromMicroseconds(1_234_567)
FULL.update_time.FromMicroseconds(-1)
DEFINITION = PreferenceDefinition(key="theme", type=PREFERENCE_TYPE_STRING)
for text in ("dark", "light"):
    DEFINITION.allowed_values.add().string_value = text
WITH_DEFAULT = PreferenceDefinition(key="theme")
WITH_DEFAULT.MergeFrom(DEFINITION)
WITH_DEFAULT.default_value.string_value = "dark"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as database:
        with database.engine.begin() as connection:
            metadata.create_all(connection)
        yield database


@pytest.mark.parametrize(
    ("table", "message"),
    [(users, EMPTY), (users, FULL), (definitions, DEFINITION), (definitions, WITH_DEFAULT)],
)
def test_a_message_is_read_as_it_was_written(database: Database, table: sa.Table, message: Any) -> None:
    type_: ResourceType[Any] = ResourceType(table, type(message))
    key = getattr(message, type_.key.name)
    with database.engine.begin() as connection:
        connection.execute(sa.insert(table), type_.placeholder(key))
        connection.execute(sa.update(table).values({**type_.to_columns(message), "present": True}))
        row = connection.execute(sa.select(table)).one()
    assert type_.to_message(row) == message


def table_of(*columns: sa.Column[Any]) -> sa.Table:
    return resource_table("things", sa.MetaData(), sa.Column("thing_id", key_text(64), primary_key=True), *columns)


@pytest.mark.parametrize(
    ("columns", "message_type", "complaint"),
    [
        ([], Int64Value, "things and google.protobuf.Int64Value do not both have value"),
        ([sa.Column("value", sa.BigInteger), sa.Column("more", sa.Text)], Int64Value, "do not both have more"),
        ([sa.Column("value", sa.JSON)], Int64Value, "things.value must not be JSON"),
        ([sa.Column("participant", sa.Text)], TransactionBranch, "do not both have operation_count"),
        (
            [sa.Column(name, sa.BigInteger) for name in Transaction.DESCRIPTOR.fields_by_name],
            Transaction,
            "must be JSON",
        ),
    ],
)
def test_a_table_that_cannot_hold_the_message_is_refused_at_once(
    columns: list[sa.Column[Any]], message_type: type[Message], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ResourceType(table_of(*columns), message_type)


def test_a_field_that_can_be_unset_needs_a_column_that_can_be_null() -> None:
    columns = [
        sa.Column("default_value", sa.JSON, nullable=False) if column.name == "default_value" else column._copy()
        for column in definitions.columns
        if column.name in PreferenceDefinition.DESCRIPTOR.fields_by_name and column.name != "key"
    ]
    table = resource_table("things", sa.MetaData(), sa.Column("key", key_text(64), primary_key=True), *columns)
    with pytest.raises(ValueError, match=r"things\.default_value must be nullable"):
        ResourceType(table, PreferenceDefinition)


def test_a_name_that_is_too_long_for_a_kind_is_refused() -> None:
    table = resource_table(33 * "a", sa.MetaData(), sa.Column("id", key_text(64), primary_key=True))
    with pytest.raises(ValueError, match="has up to 32 characters"):
        ResourceType(table, Int64Value)
