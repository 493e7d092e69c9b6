"""Values as the log has them: as JSON can have them, of a sane size, and of messages only what may be printed."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Iterable
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from handfast.server.chassis.logs.redaction import PersonalData, redacted
from handfast.server.chassis.logs.tracebacks import Traceback, in_short

MAX_TEXT = 1024
"""Characters of a text; what is longer ends in `…`."""
MAX_ELEMENTS = 50
MAX_DEPTH = 6

_AS_THEY_ARE = frozenset({bool, int, type(None)})
_SAY_WHAT_THEY_ARE = (
    str,
    int,
    float,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    enum.Enum,
    pathlib.PurePath,
    uuid.UUID,
)


def loggable(value: Any, personal: PersonalData | None = None, depth: int = MAX_DEPTH) -> Any:
    """`value` for the log. Messages lose what their contracts mark, wherever they are: in lists, dicts, dataclasses;
    texts lose what is `personal`. Of what is not known here stands only the type, as its text may hold a message's.
    """
    if type(value) is str:
        if personal is not None:
            value = personal.removed_from(value)
        return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    if type(value) in _AS_THEY_ARE or isinstance(value, Traceback):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)  # JSON has no infinity
    if isinstance(value, BaseException):
        return loggable(in_short(value), personal)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, _SAY_WHAT_THEY_ARE):
        return loggable(str(value), personal)
    if isinstance(value, Message):
        value = redacted(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, dict):
        return _dict(value, personal, depth) if depth else "…"
    if isinstance(value, list | tuple | set | frozenset):
        return _list(value, len(value), personal, depth) if depth else "…"
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _dict(value: dict[Any, Any], personal: PersonalData | None, depth: int) -> dict[str, Any]:
    shown = {
        str(loggable(key, personal, 0)): loggable(each, personal, depth - 1)
        for key, each in islice(value.items(), MAX_ELEMENTS)
    }
    if len(value) > MAX_ELEMENTS:
        shown["…"] = f"{len(value) - MAX_ELEMENTS} more"
    return shown


def _list(value: Iterable[Any], size: int, personal: PersonalData | None, depth: int) -> list[Any]:
    shown = [loggable(each, personal, depth - 1) for each in islice(value, MAX_ELEMENTS)]
    if size > MAX_ELEMENTS:
        shown.append(f"… {size - MAX_ELEMENTS} more")
    return shown
