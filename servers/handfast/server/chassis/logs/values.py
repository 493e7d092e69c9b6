"""What the log shows of a value: something that JSON can have, of bounded size, without personal data."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from handfast.server.chassis.logs.redaction import PersonalData, redacted, without_tokens
from handfast.server.chassis.logs.tracebacks import Traceback, in_short

MAX_TEXT = 1024
"""Characters of a text; what is longer ends in `…`."""
MAX_BITS = 1024
"""Of a whole number; Python refuses to write one of some 14,000 bits."""
MAX_ELEMENTS = 50
MAX_DEPTH = 6

_SAY_WHAT_THEY_ARE = (str, int, float, date, time, timedelta, Decimal, Enum, PurePath, UUID)


def loggable(value: Any, personal: PersonalData | None = None, depth: int = MAX_DEPTH) -> Any:
    """`value` as the log has it: what JSON can have, in lists and dicts of up to MAX_ELEMENTS.

    Messages lose the fields that contracts mark, wherever they are: in lists, dicts, dataclasses. Texts lose the values
    that are `personal`, and tokens. Of a type that is not known here only its name is shown, as its text may have a
    message's.
    """
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"({value.bit_length()} bits)"
    if value is None or type(value) in (bool, int) or isinstance(value, Traceback):
        return value
    if type(value) is float and math.isfinite(value):  # JSON has no infinity
        return value
    if isinstance(value, BaseException):
        value = in_short(value)
    if isinstance(value, _SAY_WHAT_THEY_ARE):
        text = without_tokens(str(value))
        text = text if personal is None else personal.removed_from(text)
        return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, Message):
        value = redacted(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return f"<{type(value).__module__}.{type(value).__qualname__}>"
    if depth == 0:
        return "…"
    more = len(value) - MAX_ELEMENTS
    if isinstance(value, dict):
        shown = {
            str(loggable(key, personal, 0)): loggable(each, personal, depth - 1)
            for key, each in islice(value.items(), MAX_ELEMENTS)
        }
        return shown | {"…": f"{more} more"} if more > 0 else shown
    elements = [loggable(each, personal, depth - 1) for each in islice(value, MAX_ELEMENTS)]
    return [*elements, f"… {more} more"] if more > 0 else elements
