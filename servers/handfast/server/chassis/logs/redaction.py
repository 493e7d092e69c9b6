"""Keeps out of the log: tokens, and personal data, the values of fields that contracts mark `[debug_redact = true]`.

protobuf honours the mark in other languages. In Python `str(message)`, `repr`, text_format and json_format print all
fields, so messages are logged by `redacted`, and `PersonalData` takes the values of a request out of other texts.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

REDACTED = "[REDACTED]"
"""As protobuf has it in other languages."""

# What a caller proves by who it is: a JSON Web Token, of which each begins with `{"` in base64, or any other that comes
# after the name of its scheme.
_TOKEN = re.compile(r"\beyJ[\w-]*(\.[\w-]*)*|(?<=bearer )[^\s'\"\\,;)\]}]+", re.ASCII | re.IGNORECASE)

_SHORT = 3  # characters of a value that is only taken out where it is a word of its own
_MAX_VALUES, _MAX_CHARACTERS = 10_000, 100_000  # of the messages at hand
_MAX_COMPARED = 100_000_000  # characters of all values times those of a text
_PLAIN = re.compile(r"[\w@.:/ +-]*", re.ASCII)  # no way of writing it changes it

_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: repr(text)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: text_encoding.CEscape(text.encode(), as_utf8=True),
    lambda text: text_encoding.CEscape(text.encode(), as_utf8=False),
)


@functools.cache
def is_marked(field: FieldDescriptor) -> bool:
    """Whether the contract marks the field as personal data."""
    return field.GetOptions().debug_redact


def redacted(message: Message) -> dict[str, Any]:
    """The fields of `message` that are set, by their names in the contract, as values that JSON can have. A marked
    field is `[REDACTED]`. Of bytes only their number is shown, as they may be a message (`google.protobuf.Any`)."""
    return {
        (f"[{field.full_name}]" if field.is_extension else field.name): (
            REDACTED if is_marked(field) else _shown(field, value)
        )
        for field, value in message.ListFields()
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


def without_tokens(text: str) -> str:
    """`text` with `[REDACTED]` in the place of each token."""
    return _TOKEN.sub(REDACTED, text) if "eyJ" in text or "bearer " in text.lower() else text


class PersonalData:
    """The values of marked fields of `messages`, to be taken out of texts: texts and numbers, keys and elements.

    A value is found in upper or lower case, as it is, and as Python's `repr`, JSON and protobuf's text format write it,
    also one within another. It stays where it says nothing about a person: where an unmarked field of the same messages
    has it, too (the user id `ada` of a user named Ada), where it is the name of a field, and where it is one character.
    Truth values are not looked for.
    """

    def __init__(self, messages: Collection[Message]) -> None:
        found = list(islice(_values(list(messages), marked=False), _MAX_VALUES))
        known = {name.casefold() for message in messages for name in _field_names(message.DESCRIPTOR)}
        known |= {value.casefold() for value, is_personal in found if not is_personal}
        marked = {value for value, is_personal in found if is_personal and value.casefold() not in known}
        self._too_much = len(found) == _MAX_VALUES or sum(map(len, marked)) > _MAX_CHARACTERS
        self._forms = [] if self._too_much else _forms(marked)

    def removed_from(self, text: str) -> str:
        """`text` with `[REDACTED]` in the place of each value. Only `[REDACTED]` is left where the values are too many
        to look for in a text of this length, which would take longer than some 0.1 s."""
        forms = [form for form in self._forms if len(form) <= len(text)]
        if self._too_much or len(text) * sum(map(len, forms)) > _MAX_COMPARED:
            return REDACTED
        folded = text.casefold()
        present = [form for form in forms if form.casefold() in folded]  # far faster than a pattern of all
        return re.sub("|".join(map(_pattern, present)), REDACTED, text, flags=re.IGNORECASE) if present else text


def _forms(values: Iterable[str]) -> list[str]:
    """All ways in which a text may show the values. The longest come first, as a shorter one may be a part of them."""
    forms = {line for value in values for line in (value, *value.splitlines())}  # notes of exceptions come by lines
    for _ in range(2):
        forms |= {escape(form) for form in forms if not _PLAIN.fullmatch(form) for escape in _ESCAPES}
    return sorted((form for form in forms if len(form) > 1), key=len, reverse=True)


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) > _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"


def _values(value: Any, *, marked: bool) -> Iterator[tuple[str, bool]]:
    """The texts and numbers in `value`, each with whether it is in a marked field, at any depth."""
    if isinstance(value, Message):
        for field, each in value.ListFields():
            yield from _values(each, marked=marked or is_marked(field))
    elif isinstance(value, str):
        yield value, marked
    elif isinstance(value, bytes):
        yield from ((repr(value)[2:-1], marked), (value.hex(), marked))
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _values(item, marked=marked)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _values(each, marked=marked)
    elif not isinstance(value, bool):
        yield repr(value).removesuffix(".0"), marked


@functools.cache
def _field_names(descriptor: Descriptor) -> Set[str]:
    """Of all messages that a message can carry."""
    reached, waiting = {descriptor}, [descriptor]
    while waiting:
        inner = {field.message_type for field in waiting.pop().fields if field.message_type is not None} - reached
        reached |= inner
        waiting.extend(inner)
    return {field.name for each in reached for field in each.fields}
