"""Exceptions as the log has them: whole, but for personal data in their texts.

Two things are taken out: what PostgreSQL quotes of the values that it refuses, and the values of marked fields of all
messages at hand, which are the request and what the local variables along the traceback hold.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from handfast.server.chassis.logs.redaction import PersonalData

MAX_TRACEBACK = 16 * 1024
"""Characters. What is longer loses its middle: the beginning says where it came from, the end what it was."""

MAX_LINE = 500
"""Characters of one that is said in one line."""

_FRAME = re.compile(r'[ |]*File "[^"\n]*", line \d+, in ')
_WITHHELD = "(withheld: it may quote values)"
# Classes of SQLSTATE that are about connections, conflicts and resources: what their errors say has no values.
_WITHOUT_VALUES = ("08", "40", "53", "55", "57", "58")
_ABOUT_VALUES = "22"
_QUOTES_NOTHING = re.compile(r"[\w ()]+", re.ASCII)  # PostgreSQL has other quotation marks in other languages
_MOST_ELEMENTS = 1000


class Traceback(str):
    """What was said of an exception, and may be logged as it is."""

    __slots__ = ()


def described(error: BaseException, request: PersonalData | None = None) -> Traceback:
    """The traceback, with those of its causes. `request` is of the call in which it was raised."""
    errors = list(_chain(error))
    personal = _personal(errors, request)
    # Source lines hold no values, but short values could be found in them, and in the numbers of lines.
    chunks = [
        chunk if _FRAME.match(chunk) else personal.removed_from(_without_quoted_values(chunk, errors))
        for chunk in traceback.format_exception(error)
    ]
    text = "".join(chunks)
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return Traceback(text)


def in_short(error: BaseException) -> str:
    """What it says, without a traceback; the name of its class where it says nothing."""
    errors = list(_chain(error))
    text = _without_quoted_values(str(error), errors)
    return _personal(errors, None).removed_from(text) or type(error).__name__


def in_one_line(error: BaseException, request: PersonalData | None = None) -> Traceback:
    """Class and first line of what it says, and the statement where one failed: for what needs no traceback. `request`
    is of the call in which it was raised.
    """
    errors = list(_chain(error))
    driver = getattr(error, "orig", None) or error  # SQLAlchemy's errors have the driver's
    said = _without_quoted_values(str(driver), errors).strip().partition("\n")[0]
    line = f"{type(driver).__module__}.{type(driver).__qualname__}: {said}"
    if statement := getattr(error, "statement", None):
        line += f" [SQL: {' '.join(str(statement).split())}]"
    line = _personal(errors, request).removed_from(line)
    return Traceback(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception with all that its traceback tells of."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.extend(other for other in (each.__cause__, each.__context__) if other is not None)
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)


def _personal(errors: list[BaseException], request: PersonalData | None) -> PersonalData:
    found: list[Message] = []
    for error in errors:
        found.extend(_messages(error.args))
        for frame, _line in traceback.walk_tb(error.__traceback__):
            found.extend(_messages(frame.f_locals))
    return PersonalData(found) if request is None else request.and_of(found)


def _messages(value: Any, depth: int = 3) -> Iterator[Message]:
    """The messages that `value` is or holds."""
    if isinstance(value, Message):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        for each in list(value.values() if isinstance(value, dict) else value)[:_MOST_ELEMENTS]:
            yield from _messages(each, depth - 1)


def _without_quoted_values(text: str, errors: list[BaseException]) -> str:
    for error in errors:
        driver = getattr(error, "orig", error)  # SQLAlchemy's errors have the driver's
        diagnosis, sqlstate = getattr(driver, "diag", None), getattr(driver, "sqlstate", None)
        if diagnosis is None or not isinstance(sqlstate, str) or sqlstate.startswith(_WITHOUT_VALUES):
            continue
        quoting = [diagnosis.message_detail, diagnosis.context]
        if sqlstate.startswith(_ABOUT_VALUES) and not _QUOTES_NOTHING.fullmatch(diagnosis.message_primary or ""):
            quoting.append(diagnosis.message_primary)
        for each in filter(None, quoting):
            text = text.replace(each, _WITHHELD)
    return text
