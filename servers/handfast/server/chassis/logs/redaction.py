"""Keeps personal data out of what is printed: the fields that contracts mark `[debug_redact = true]`.

protobuf honours the mark in other languages; in Python `str(message)`, `repr`, text_format and json_format print all.
So messages are printed by `redacted`. What got into a text all the same, such as that of an exception, is taken out by
`PersonalData`, which knows the values of marked fields of the messages at hand.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

REDACTED = "[REDACTED]"
"""As protobuf has it in other languages."""

_TELLS_NOTHING = 1  # a text of so many characters tells nothing of anybody
_SHORT = 3  # of so many characters, only whole words are taken out
_PLAIN = re.compile(r"[^\W_]+|[ !#-&(-\[\]-~]", re.ASCII)
_MOST_WORK = 50_000_000  # characters to look at, some 0.05 s


@functools.cache
def is_marked(field: FieldDescriptor) -> bool:
    return field.GetOptions().debug_redact


def redacted(message: Message) -> dict[str, Any]:
    """The fields that are set, by their names in the contract, as JSON can have them: marked ones as `[REDACTED]`, and
    of bytes only how many there are, as they may be a message (`google.protobuf.Any`)."""
    return {
        _name(field): REDACTED if is_marked(field) else _shown(field, value) for field, value in message.ListFields()
    }


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return redacted(value)
    if isinstance(value, Mapping):
        assert field.message_type is not None  # of an entry
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _shown(entry, each) for key, each in value.items()}
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_shown(field, each) for each in value]
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value


def _name(field: FieldDescriptor) -> str:
    return f"[{field.full_name}]" if field.is_extension else field.name


class PersonalData:
    """The values of marked fields of `messages`, to take out of texts: texts and numbers, keys and elements.

    A value is found as it is, in upper or lower case, and escaped as Python, JSON and protobuf do. It is left where it
    says nothing that may not be printed: it also stands in a field that is not marked (the user `ada` whose name is
    Ada), it is the name of a field, or it has one character. Truth values, parts of a value, and what was computed of
    it, are not found.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        marked: set[str] = set()
        others: set[str] = set()
        for message in messages:
            _collect(message, marked, others)
        known = {text.lower() for text in others}
        # Their lines, too: notes of exceptions are printed line by line.
        values = {line for text in marked if text.lower() not in known for line in (text, *text.splitlines())}
        self._values = sorted((value for value in values if len(value) > _TELLS_NOTHING), key=len, reverse=True)

    def removed_from(self, text: str) -> str:
        """`text` with `[REDACTED]` in the place of each value; nothing else is left where looking would take long."""
        if len(text) * len(self._values) > _MOST_WORK:
            return REDACTED
        lower = text.lower()
        escapes = "\\" in text
        for value in self._values:
            if value.lower() in lower or (escapes and _longest_run(value) in lower):
                text = re.sub(_pattern(value), REDACTED, text, flags=re.IGNORECASE)
        return text


def _longest_run(value: str) -> str:
    """Of characters that nothing escapes."""
    return max(_PLAIN.findall(value.lower()), key=len, default="")


def _pattern(value: str) -> str:
    """`value`, however often it was escaped."""
    pattern = "".join(map(_character, value))
    return pattern if len(value) > _SHORT else rf"(?<!\w){pattern}(?!\w)"


@functools.lru_cache(1024)
def _character(character: str) -> str:
    if _PLAIN.fullmatch(character):
        return re.escape(character)
    if character in "'\"":
        return rf"\\*{character}"
    escaped = {
        character,
        repr(character)[1:-1],
        ascii(character)[1:-1],
        json.dumps(character)[1:-1],
        text_encoding.CEscape(character.encode(), True),
        text_encoding.CEscape(character.encode(), False),
    }
    return "(?:" + "|".join(r"\\+".join(map(re.escape, each.split("\\"))) for each in sorted(escaped)) + ")"


def _collect(message: Message, marked: set[str], others: set[str]) -> None:
    """Adds the values of fields that are marked, or are within one that is, to `marked`, and all others to `others`."""
    others.update(_field_names(message.DESCRIPTOR))
    for field, value in message.ListFields():
        _collect_value(value, marked, marked if is_marked(field) else others)


@functools.cache
def _field_names(descriptor: Descriptor) -> Set[str]:
    """Of all messages that a message can carry."""
    reached, waiting = {descriptor}, [descriptor]
    while waiting:
        inner = {field.message_type for field in waiting.pop().fields if field.message_type is not None} - reached
        reached |= inner
        waiting.extend(inner)
    return {field.name for each in reached for field in each.fields}


def _collect_value(value: Any, marked: set[str], into: set[str]) -> None:
    if isinstance(value, Message):
        if into is marked:
            for _field, each in value.ListFields():
                _collect_value(each, marked, marked)
        else:
            _collect(value, marked, into)
    elif isinstance(value, str):
        into.add(value)
    elif isinstance(value, bytes):
        into.update((repr(value)[2:-1], value.hex()))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _collect_value(key, marked, into)
            _collect_value(each, marked, into)
    elif isinstance(value, Sequence):
        for each in value:
            _collect_value(each, marked, into)
    elif not isinstance(value, bool):
        into.add(repr(value).removesuffix(".0"))
