"""Keeps personal data out of what is printed: the fields that contracts mark `[debug_redact = true]`.

protobuf honours the mark in other languages; in Python `str(message)`, `repr`, text_format and json_format print all.
So messages are printed by `redacted`. What got into a text all the same, such as that of an exception, is taken out by
`PersonalData`, which knows the values of marked fields of the messages at hand.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from handfast.server.chassis.logs.unescaped import Unescaped, folded

REDACTED = "[REDACTED]"
"""As protobuf has it in other languages."""

_TELLS_NOTHING = 1  # a text of so many characters tells nothing of anybody
_SHORT = 3  # of so many characters, only whole words are taken out
_IN_WORD = re.compile(r"\w")
_MOST_VALUES = 10_000
_MOST_WORK = 500_000_000  # characters to compare at worst, some 0.1 s; it is mostly far less
_LINEAR = 1000  # however long a value is, it is not compared more often with each character of a text
_MOST_ESCAPED = 250_000  # characters to read escapes of, some 0.2 s at worst
_HIDDEN = "\ud800"  # half a character, which no field can have
_HIDDEN_RUN = re.compile(f"{_HIDDEN}+")


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
        self._found = _Found()
        self._found.add(messages)

    def and_of(self, messages: Iterable[Message]) -> PersonalData:
        """This with that of `messages`. Those that are in this already cost nothing."""
        both = PersonalData(())
        both._found = self._found.copy()
        both._found.add(messages)
        return both

    def removed_from(self, text: str) -> str:
        """`text` with `[REDACTED]` in the place of each value; nothing else is left where looking would take long."""
        if self._found.too_many:
            return REDACTED
        if not self._as_they_are.texts:
            return text
        try:
            found = self._as_they_are.places_in(folded(text))
            if "\\" in text:
                if len(text) > _MOST_ESCAPED:
                    return REDACTED
                unescaped = Unescaped(text)
                found += map(unescaped.origin, self._unescaped.places_in(unescaped.text))
        except _TooMuchWork:
            return REDACTED
        return _without(text, found) if found else text

    @functools.cached_property
    def _as_they_are(self) -> _Needles:
        known = set(map(folded, self._found.others))
        values = map(folded, self._found.marked)
        # Their lines, too: notes of exceptions are printed line by line.
        return _Needles({line for text in values if text not in known for line in (text, *text.splitlines())})

    @functools.cached_property
    def _unescaped(self) -> _Needles:
        values = [value for value in self._as_they_are.texts if len(value) <= _MOST_ESCAPED]
        if sum(map(len, values)) > _MOST_ESCAPED:
            raise _TooMuchWork
        return _Needles({Unescaped(value).text for value in values})


class _TooMuchWork(Exception):
    pass


class _Needles:
    """Texts to look for, all of them folded."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = sorted((text for text in texts if len(text) > _TELLS_NOTHING), key=len, reverse=True)
        self._work = _work(self.texts)

    def places_in(self, text: str) -> list[tuple[int, int]]:
        """Where `text` has one: from where, and to where. Raises _TooMuchWork."""
        needles = self.texts
        if len(text) * self._work > _MOST_WORK:
            needles = [needle for needle in needles if len(needle) <= len(text)]
            if len(text) * _work(needles) > _MOST_WORK:
                raise _TooMuchWork
        before = text
        for needle in needles:
            if needle in text:
                text = _words_hidden(text, needle) if len(needle) <= _SHORT else text.replace(needle, _hidden(needle))
        return [] if text is before else [place.span() for place in _HIDDEN_RUN.finditer(text)]


def _work(needles: list[str]) -> int:
    """How many characters are compared with each one of a text."""
    return sum(min(len(needle), _LINEAR) for needle in needles)


def _hidden(text: str) -> str:
    return _HIDDEN * len(text)


def _words_hidden(text: str, word: str) -> str:
    """`text` without `word` where it is no part of a longer one."""
    parts: list[str] = []
    at, start = 0, text.find(word)
    while start >= 0:
        end = start + len(word)
        if _IN_WORD.match(text[start - 1 : start]) or _IN_WORD.match(text, end):
            start = text.find(word, start + 1)
        else:
            parts += (text[at:start], _hidden(word))
            at, start = end, text.find(word, end)
    return "".join((*parts, text[at:]))


def _without(text: str, places: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    at = 0
    for start, end in sorted(places):
        if start >= at:
            parts += (text[at:start], REDACTED)
        at = max(at, end)
    return "".join((*parts, text[at:]))


class _Found:
    """The values of messages: those of fields that are marked, or are within one that is, and all others."""

    def __init__(self) -> None:
        self.marked: set[str] = set()
        self.others: set[str] = set()
        self._messages: dict[int, Message] = {}  # kept, so that no other gets the id of one
        self._left = _MOST_VALUES

    @property
    def too_many(self) -> bool:
        """To look at them all: some are missing here."""
        return self._left < 0

    def copy(self) -> _Found:
        other = _Found()
        other.marked, other.others = self.marked.copy(), self.others.copy()
        other._messages, other._left = self._messages.copy(), self._left
        return other

    def add(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if id(message) not in self._messages:
                self._messages[id(message)] = message
                self._message(message)

    def _message(self, message: Message) -> None:
        self.others |= _field_names(message.DESCRIPTOR)
        for field, value in message.ListFields():
            self._value(value, self.marked if is_marked(field) else self.others)

    def _value(self, value: Any, into: set[str]) -> None:
        self._left -= 1
        if self.too_many:
            return
        if isinstance(value, Message):
            if into is self.others:
                self._message(value)
            else:
                self._all((each for _field, each in value.ListFields()), into)
        elif isinstance(value, str):
            into.add(value)
        elif isinstance(value, bytes):
            into.update((repr(value)[2:-1], value.hex()))
        elif isinstance(value, Mapping):
            self._all((each for item in value.items() for each in item), into)
        elif isinstance(value, Sequence):
            self._all(value, into)
        elif not isinstance(value, bool):
            into.add(repr(value).removesuffix(".0"))

    def _all(self, values: Iterable[Any], into: set[str]) -> None:
        for each in values:
            self._value(each, into)
            if self.too_many:
                return


@functools.cache
def _field_names(descriptor: Descriptor) -> Set[str]:
    """Of all messages that a message can carry."""
    reached, waiting = {descriptor}, [descriptor]
    while waiting:
        inner = {field.message_type for field in waiting.pop().fields if field.message_type is not None} - reached
        reached |= inner
        waiting.extend(inner)
    return {field.name for each in reached for field in each.fields}
