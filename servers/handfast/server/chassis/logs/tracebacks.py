"""What the log shows of an exception: all of it but tokens and personal data.

Beside tokens, two things are taken out of its texts: what PostgreSQL quotes of the values that it refuses, and the
values of marked fields of the messages at hand. Those are the request, and the messages that are arguments of the
exception or local variables along its traceback.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from google.protobuf.message import Message

from handfast.server.chassis.logs.redaction import PersonalData, without_tokens

MAX_TRACEBACK = 16 * 1024
"""Characters. A longer one loses its middle: the beginning says where the exception came from, the end what it was."""

MAX_LINE = 500
"""Characters of an exception that is shown in one line."""

_FRAME = re.compile(r'[ |]*File "[^"\n]*", line \d+, in ')
_WITHHELD = "(withheld: it may quote values)"
# Classes of SQLSTATE that are about connections, conflicts and resources: what their errors say has no values.
_WITHOUT_VALUES = ("08", "40", "53", "55", "57", "58")
_ABOUT_VALUES = "22"
_QUOTES_NOTHING = re.compile(r"[\w ()]+", re.ASCII)  # PostgreSQL has other quotation marks in other languages


class Traceback(str):
    """The text of an exception, cleaned, which may be logged as it is."""

    __slots__ = ()


def described(error: BaseException, request: PersonalData | None = None) -> Traceback:
    """The traceback, with those of the exceptions that caused it. `request` is of the call in which it was raised."""
    clean = _Cleaner(error, request)
    # Lines that say where are left as they are: they have no values, but a short value could be found in them.
    text = "".join(chunk if _FRAME.match(chunk) else clean.text(chunk) for chunk in traceback.format_exception(error))
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return Traceback(text)


def in_short(error: BaseException) -> str:
    """The text of the exception, or the name of its class where it has none."""
    return _Cleaner(error).text(str(error)) or type(error).__name__


def in_one_line(error: BaseException, request: PersonalData | None = None) -> Traceback:
    """The class of the exception and the first line of its text, with the SQL statement that failed, if one did: for
    failures that need no traceback. `request` is of the call in which it was raised."""
    clean = _Cleaner(error, request)
    driver = _drivers(error)
    line = f"{type(driver).__module__}.{type(driver).__qualname__}: "
    line += clean.text(str(driver)).strip().partition("\n")[0]
    if statement := getattr(error, "statement", None):
        line += clean.text(f" [SQL: {' '.join(str(statement).split())}]")
    return Traceback(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…")


class _Cleaner:
    """Takes personal data out of what is printed of `error` and of the exceptions that caused it."""

    def __init__(self, error: BaseException, request: PersonalData | None = None) -> None:
        errors = list(_chain(error))
        at_hand = PersonalData({id(message): message for message in _messages(errors)}.values())
        self._personal = (at_hand,) if request is None else (request, at_hand)
        self._quotes = [quote for each in errors for quote in _quotes(_drivers(each))]

    def text(self, text: str) -> str:
        text = without_tokens(text)
        for quote in self._quotes:
            text = text.replace(quote, _WITHHELD)
        for each in self._personal:
            text = each.removed_from(text)
        return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and all that its traceback shows as well."""
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


def _messages(errors: Iterable[BaseException]) -> Iterator[Message]:
    for error in errors:
        places = [error.args, *(_local_values(frame) for frame, _ in traceback.walk_tb(error.__traceback__))]
        yield from (value for values in places for value in values if isinstance(value, Message))


def _local_values(frame: FrameType) -> tuple[object, ...]:
    """The values of a frame's local variables. Before Python 3.13 a function's frame keeps the dict that it gives for
    them. The exception is in it, and leads back to the frame: a cycle, which would keep all that the function had until
    the garbage collector comes. So the dict is emptied again."""
    seen = frame.f_locals
    values = tuple(seen.values())
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        seen.clear()
    return values


def _drivers(error: BaseException) -> BaseException:
    """The driver's own exception, where SQLAlchemy has wrapped it."""
    return getattr(error, "orig", None) or error


def _quotes(driver: Any) -> Iterator[str]:
    """What of PostgreSQL's text may quote values."""
    diagnosis, sqlstate = getattr(driver, "diag", None), getattr(driver, "sqlstate", None)
    if diagnosis is None or not isinstance(sqlstate, str) or sqlstate.startswith(_WITHOUT_VALUES):
        return
    yield from filter(None, (diagnosis.message_detail, diagnosis.context))
    primary = diagnosis.message_primary
    if primary and sqlstate.startswith(_ABOUT_VALUES) and not _QUOTES_NOTHING.fullmatch(primary):
        yield primary
