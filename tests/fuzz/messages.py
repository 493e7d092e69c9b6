"""Random messages of any type, made from its descriptor alone.

A message is plausible, plausible but for one field at some depth, or odd all over. What is plausible in which field is
for the caller to say; elsewhere anything goes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from tests.fuzz import odd

DEPTH = 5
"""Messages within messages; `wire.py` makes deeper ones."""

Plausible = Callable[[FieldDescriptor], "st.SearchStrategy[Any] | None"]
"""What a field holds in a request that may well be accepted; None where its type says enough."""
Draw = Callable[["st.SearchStrategy[Any]"], Any]


class _Style(enum.Enum):
    PLAUSIBLE = enum.auto()
    ONE_ODD = enum.auto()
    ODD = enum.auto()


_STYLES = st.sampled_from((*[_Style.PLAUSIBLE] * 3, *[_Style.ONE_ODD] * 2, _Style.ODD))


def messages(descriptor: Descriptor, plausible: Plausible) -> st.SearchStrategy[Message]:
    @st.composite
    def strategy(draw: Draw) -> Message:
        return _message(draw, descriptor, plausible, draw(_STYLES), DEPTH)

    return strategy()


def new(descriptor: Descriptor) -> Message:
    return GetMessageClass(descriptor)()


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _message(draw: Draw, descriptor: Descriptor, plausible: Plausible, style: _Style, depth: int) -> Message:
    message = new(descriptor)
    fields = [*(field for field in descriptor.fields if field.containing_oneof is None)]
    for oneof in descriptor.oneofs:
        fields.append(draw(st.sampled_from(list(oneof.fields))))
    if depth == 0:
        fields = [field for field in fields if field.message_type is None]
    the_odd_one = draw(st.sampled_from(fields)) if fields and style is _Style.ONE_ODD else None
    for field in fields:
        is_odd = style is _Style.ODD or field is the_odd_one
        if not draw(st.booleans() if is_odd else _MOSTLY):
            continue
        usual = plausible(field)
        if usual is not None and not is_odd:
            _set(message, field, draw(usual))
            continue
        within = style if field is the_odd_one or style is _Style.ODD else _Style.PLAUSIBLE
        _set(message, field, _anything(draw, field, plausible, within, depth))
    return message


_MOSTLY = st.sampled_from((*[True] * 9, False))


def _anything(draw: Draw, field: FieldDescriptor, plausible: Plausible, style: _Style, depth: int) -> Any:
    def one(each: FieldDescriptor) -> Any:
        if each.message_type is None:
            return draw(odd.scalars(each))
        return _message(draw, each.message_type, plausible, style, depth - 1)

    if is_map(field):
        assert field.message_type is not None
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        return {one(key): one(value) for _ in range(draw(_FEW))}
    if not field.is_repeated:
        return one(field)
    elements = [one(field) for _ in range(draw(_FEW))]
    if elements and style is _Style.ODD and draw(_SELDOM) and not _is_large(elements[0]):
        elements *= draw(odd.lengths)
    return elements


_FEW = st.integers(0, 3)
_SELDOM = st.sampled_from((False, False, False, True))


def _is_large(element: Any) -> bool:
    """Whether many of it would be more than a request can have."""
    return (element.ByteSize() if isinstance(element, Message) else len(str(element))) > 1000


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    held: Any = getattr(message, field.name)
    if is_map(field):
        for key, each in value.items():
            if isinstance(each, Message):
                held[key].CopyFrom(each)
            else:
                held[key] = each
    elif field.is_repeated:
        held.extend(value)
    elif isinstance(value, Message):
        held.CopyFrom(value)
    else:
        setattr(message, field.name, value)


def submessages(message: Message) -> Iterable[Message]:
    """A message and all that it holds."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for each in value.values():
                    yield from submessages(each)
        else:
            for each in value if field.is_repeated else [value]:
                yield from submessages(each)
