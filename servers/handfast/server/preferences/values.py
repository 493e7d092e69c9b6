"""Whether a value is one that its definition allows."""

from __future__ import annotations

import json
import math

from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2 as pb
from handfast.server.chassis.errors import Violations
from handfast.server.preferences.definitions import to_json
from handfast.server.preferences.errors import VALUE_NOT_ALLOWED, WRONG_TYPE

MAX_VALUE_BYTES = 4096
MAX_ELEMENTS = 100

_TYPES = {
    pb.PREFERENCE_TYPE_BOOLEAN: ("bool_value", "must be true or false"),
    pb.PREFERENCE_TYPE_NUMBER: ("number_value", "must be a number, neither NaN nor infinite"),
    pb.PREFERENCE_TYPE_STRING: ("string_value", "must be a string"),
    pb.PREFERENCE_TYPE_STRING_LIST: ("list_value", f"must be a list of up to {MAX_ELEMENTS} strings"),
}
"""How a value of each type is held, and the rule for it."""


def check_value(violations: Violations, field: str, value: Value, definition: pb.PreferenceDefinition) -> None:
    """Checks a value against the type and the allowed values of its definition."""
    if not check_type(violations, field, value, definition.type):
        return
    allowed = list(definition.allowed_values)
    elements = value.list_value.values if definition.type == pb.PREFERENCE_TYPE_STRING_LIST else [value]
    if allowed and not all(element in allowed for element in elements):
        choices = ", ".join(_words(each) for each in allowed)
        violations.add(field, f"must be one of {choices}", VALUE_NOT_ALLOWED)


def check_type(violations: Violations, field: str, value: Value, wanted: pb.PreferenceType.ValueType) -> bool:
    """Returns whether a value has the type `wanted` and is small enough."""
    if value.ByteSize() > MAX_VALUE_BYTES:
        violations.add(field, f"must take up to {MAX_VALUE_BYTES} bytes, not {value.ByteSize()}")
        return False
    kind, rule = _TYPES[wanted]
    if value.WhichOneof("kind") != kind or not _is_in_bounds(value):
        violations.add(field, rule, WRONG_TYPE)
        return False
    return True


def _is_in_bounds(value: Value) -> bool:
    elements = value.list_value.values
    all_strings = all(element.WhichOneof("kind") == "string_value" for element in elements)
    return math.isfinite(value.number_value) and len(elements) <= MAX_ELEMENTS and all_strings


def _words(value: Value) -> str:
    """A value that a definition allows, as JSON has it: numbers with all their digits, texts in quotes."""
    return json.dumps(to_json(value), ensure_ascii=False).removesuffix(".0")
