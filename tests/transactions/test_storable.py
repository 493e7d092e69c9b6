"""What columns cannot hold is refused by the write that makes it, plain or staged: a staged change has to be applicable
once it is committed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from handfast.server.chassis.data.database import Database, key_text
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.errors import InvalidValue
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import ParticipantTables, ResourceType, UnitOfWork, resource_table
from handfast.server.transactions.core.model import BranchDecision, Outcome
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.store import Store
from tests.transactions.bank import first_call
from tests.transactions.participants import Coordinator

UNKNOWN_FIELD = b"\xfa\x7f\x01x"
KINDS = FieldDescriptorProto
ODD_NAMES = ("from", "class", "in", "None", "_hidden", "horizon", "number", "image", "index", "limit_")


def _thing() -> Any:
    """A message with a field of each kind that a column may not be able to hold."""
    file = FileDescriptorProto(name="tests/storable.proto", package="tests.storable", syntax="proto3")
    file.dependency.extend(f"google/protobuf/{name}.proto" for name in ("timestamp", "duration", "struct", "any"))
    thing: DescriptorProto = file.message_type.add(name="Thing")
    kinds: dict[str, Any] = {
        "thing_id": KINDS.TYPE_STRING,
        "text": KINDS.TYPE_STRING,
        "price": KINDS.TYPE_DOUBLE,
        "single": KINDS.TYPE_DOUBLE,
        "amount": KINDS.TYPE_DOUBLE,
        "count": KINDS.TYPE_UINT64,
        "time": "Timestamp",
        "made": "Timestamp",
        "pause": "Duration",
        "value": "Value",
        "values": "Struct",
        "any": "Any",
        **dict.fromkeys(ODD_NAMES, KINDS.TYPE_STRING),
    }
    for number, (name, kind) in enumerate(kinds.items(), 1):
        field = thing.field.add(name=name, number=number, label=KINDS.LABEL_OPTIONAL)
        if isinstance(kind, str):
            field.type, field.type_name = KINDS.TYPE_MESSAGE, f".google.protobuf.{kind}"
        else:
            field.type = kind
    Default().AddSerializedFile(file.SerializeToString())
    return GetMessageClass(Default().FindMessageTypeByName("tests.storable.Thing"))


for _loaded in ("timestamp", "duration", "struct", "any"):
    __import__(f"google.protobuf.{_loaded}_pb2")
Thing = _thing()


metadata = sa.MetaData()
table = resource_table(
    "things",
    metadata,
    sa.Column("thing_id", key_text(8), primary_key=True),
    sa.Column("text", sa.String(4), nullable=False),
    sa.Column("price", sa.Double, nullable=False),
    sa.Column("single", sa.REAL, nullable=False),
    sa.Column("amount", sa.Numeric(5, 2, asdecimal=False), nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("time", sa.BigInteger),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("pause", sa.BigInteger),
    *(sa.Column(name, sa.JSON(none_as_null=True)) for name in ("value", "values", "any")),
    *(sa.Column(name, sa.Text, nullable=False) for name in ODD_NAMES),
)
tables = ParticipantTables(metadata)
THINGS: ResourceType[Any] = ResourceType(table, Thing)


class Things:
    def __init__(self, url: str) -> None:
        self.database = Database(url)
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(sa.insert(tables.horizon), {"transaction_id": ""})
        store, requests = (
            Store("things", self.database, tables, [THINGS]),
            IdempotencyStore(self.database, tables.requests),
        )
        self.participant = Participant(store, requests, Coordinator(), threads=2)
        self.collection = self.participant.collection(THINGS)

    def put(self, message: Message, key: str = "a", *, staged: bool) -> StringValue:
        """Writes it; what is staged, is committed and applied. The work answers with a field that nobody knows."""

        def work(unit: UnitOfWork) -> StringValue:
            unit.put(THINGS, key, message)
            return StringValue.FromString(UNKNOWN_FIELD)

        if not staged:
            return self.participant.write_plainly("/things/Put", StringValue(), work, StringValue)
        tx = new_id()
        reply = self.participant.stage(first_call(tx), StringValue(), work, StringValue).reply
        assert self.participant.finisher.finish(BranchDecision(tx, Outcome.COMMITTED, 1)) == {tx: True}
        return reply

    def rows(self, of: sa.Table) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(of)))


@pytest.fixture
def things(database_url: str) -> Iterator[Things]:
    things = Things(database_url)
    with closing(things.database):
        yield things


def thing(change: Callable[[Any], object] = lambda _: None) -> Any:
    message = Thing(thing_id="a")
    change(message)
    return message


def _null(message: Any) -> None:
    message.value.null_value = 0


REFUSED: dict[str, Callable[[Any], object]] = {
    "text: must have at most 4 characters": lambda it: setattr(it, "text", "five!"),
    "text: must not have the character NUL": lambda it: setattr(it, "text", "a\0"),
    "price: must be a number, and not NaN": lambda it: setattr(it, "price", math.nan),
    "single: must be a number of single precision": lambda it: setattr(it, "single", 0.1),
    "single: must be a number": lambda it: setattr(it, "single", 1e39),
    "amount: must be a finite number": lambda it: setattr(it, "amount", math.inf),
    "amount: must have at most 5 digits": lambda it: setattr(it, "amount", 1000.0),
    "amount: must have at most 5 digits, 2": lambda it: setattr(it, "amount", 0.125),
    "count: must be from -9223372036854775808 to": lambda it: setattr(it, "count", 2**63),
    "time: ": lambda it: setattr(it.time, "seconds", 2**60),
    "time: must be whole microseconds": lambda it: setattr(it.time, "nanos", 1001),
    "made: must not be 0, which stands for unset": lambda it: it.made.SetInParent(),
    "pause: ": lambda it: setattr(it.pause, "seconds", 2**60),
    "value: ": lambda it: setattr(it.value, "number_value", math.nan),
    "value: has values that JSON does not keep": _null,
    "values: ": lambda it: setattr(it.values.fields["x"], "number_value", math.inf),
    "any: ": lambda it: it.any.CopyFrom(AnyMessage(type_url="type.googleapis.com/no.Such", value=b"x")),
    "thing_id: must be the key": lambda it: setattr(it, "thing_id", "b"),
}


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("rule", REFUSED)
def test_what_a_column_cannot_hold_is_refused_and_nothing_is_stored(things: Things, rule: str, staged: bool) -> None:
    with pytest.raises(InvalidValue, match=rf"^things\.{rule}"):
        things.put(thing(REFUSED[rule]), staged=staged)
    for each in (table, tables.branches, tables.operations):
        assert things.rows(each) == []


@pytest.mark.parametrize("staged", [False, True])
def test_a_message_of_another_type_is_refused(things: Things, staged: bool) -> None:
    with pytest.raises(TypeError, match="things are Thing, and not Int64Value"):
        things.put(Int64Value(), staged=staged)
    assert things.rows(tables.branches) == []


@pytest.mark.parametrize("staged", [False, True])
def test_what_the_columns_can_hold_is_read_as_it_was_written(things: Things, staged: bool) -> None:
    message = thing()
    message.text, message.price, message.single, message.amount, message.count = "äöü𝄞", math.inf, 0.5, 999.5, 2**63 - 1
    message.time.FromMicroseconds(-1)
    message.made.FromMicroseconds(1)
    message.pause.FromMicroseconds(0)
    message.value.list_value.values.add().null_value = 0
    message.values.update({"a": [1, None, "x\0"]})
    things.put(message, staged=staged)
    found = things.collection.get("a")
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize("staged", [False, True])
def test_fields_may_have_names_that_mean_something_to_python_or_to_statements(things: Things, staged: bool) -> None:
    for text in ("one", "~~~ and two"):
        message = Thing(thing_id="a", **{name: f"{text} {name}" for name in ODD_NAMES})
        things.put(message, staged=staged)
        found = things.collection.get("a")
        assert found is not None
        assert found.message == things.collection.batch(["a"])["a"].message == message
        assert things.collection.page("", 1) == ([message], "")


@pytest.mark.parametrize("staged", [False, True])
def test_fields_that_the_service_does_not_know_are_left_out(things: Things, staged: bool) -> None:
    message = thing()
    message.MergeFromString(UNKNOWN_FIELD)
    assert things.put(message, staged=staged) == StringValue()
    assert message == thing()


@pytest.mark.parametrize(
    "rule",
    [
        sa.CheckConstraint("value > 0"),
        sa.UniqueConstraint("value"),
        sa.ForeignKeyConstraint(["value"], ["others.id"]),
        sa.Index("unique_values", "value", unique=True),
    ],
)
def test_a_table_that_could_refuse_a_committed_change_is_refused(rule: Any) -> None:
    metadata = sa.MetaData()
    sa.Table("others", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
    columns = sa.Column("id", key_text(8), primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
    with pytest.raises(ValueError, match="has no CHECK, UNIQUE, FOREIGN KEY or unique index"):
        ResourceType(resource_table("things", metadata, *columns, rule), Int64Value)


def test_an_index_of_texts_that_may_be_too_long_for_it_is_refused() -> None:
    columns = sa.Column("id", key_text(8), primary_key=True), sa.Column("value", sa.Text, index=True)
    with pytest.raises(ValueError, match="takes only texts of up to 600 characters"):
        ResourceType(resource_table("things", sa.MetaData(), *columns), StringValue)
