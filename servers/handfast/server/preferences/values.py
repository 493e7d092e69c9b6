"""Whether a value is one that its definition allows."""

from __future__ import annotations

import json
import math

from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_BOOLEAN,
    PREFERENCE_TYPE_NUMBER,
    PREFERENCE_TYPE_STRING,
    PREFERENCE_TYPE_STRING_LIST,
    PreferenceDefinition,
    PreferenceType,
)
from handfast.server.chassis.errors import Violations
from handfast.server.preferences.definitions import to_json
from handfast.server.preferences.errors import VALUE_NOT_ALLOWED, WRONG_TYPE

MAX_VALUE_BYTES = 4096
MAX_ELEMENTS = 100

_RULES = {
    PREFERENCE_TYPE_BOOLEAN: "must be true or false",
    PREFERENCE_TYPE_NUMBER: "must be a number, neither NaN nor infinite",
    PREFERENCE_TYPE_STRING: "must be a string",
    PREFERENCE_TYPE_STRING_LIST: f"must be a list of up to {MAX_ELEMENTS} strings",
}


def check_value(violations: Violations, field: str, value: Value, definition: PreferenceDefinition) -> None:
    """Checks a value against the type and the allowed values of its definition."""
    if not check_type(violations, field, value, definition.type):
        return
    allowed = list(definition.allowed_values)
    elements = value.list_value.values if definition.type == PREFERENCE_TYPE_STRING_LIST else [value]
    if allowed and not all(element in allowed for element in elements):
        choices = ", ".join(_words(each) for each in allowed)
        violations.add(field, f"must be one of {choices}", VALUE_NOT_ALLOWED)


def check_type(violations: Violations, field: str, value: Value, wanted: PreferenceType.ValueType) -> bool:
    """Returns whether a value has the type `wanted` and is small enough."""
    if value.ByteSize() > MAX_VALUE_BYTES:
        violations.add(field, f"must take up to {MAX_VALUE_BYTES} bytes, not {value.ByteSize()}")
        return False
    if not _is_of_type(value, wanted):
        violations.add(field, _RULES[wanted], WRONG_TYPE)
        return False
    return True


def _is_of_type(value: Value, wanted: PreferenceType.ValueType) -> bool:
    kind = value.WhichOneof("kind")
    if wanted == PREFERENCE_TYPE_BOOLEAN:
        return kind == "bool_value"
    if wanted == PREFERENCE_TYPE_NUMBER:
        return kind == "number_value" and math.isfinite(value.number_value)
    if wanted == PREFERENCE_TYPE_STRING:
        return kind == "string_value"
    elements = value.list_value.values
    return (
        kind == "list_value"
        and len(elements) <= MAX_ELEMENTS
        and all(element.WhichOneof("kind") == "string_value" for element in elements)
    )


def _words(value: Value) -> str:
    """A value that a definition allows, as JSON has it: numbers with all their digits, texts in quotes."""
    return json.dumps(to_json(value), ensure_ascii=False).removesuffix(".0")
