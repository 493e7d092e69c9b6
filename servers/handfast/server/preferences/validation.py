"""Checks the requests of PreferencesService. A check raises InvalidFields, with all violations by their fields."""

from __future__ import annotations

import json
import math

from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2 as pb
from handfast.server.chassis.call import in_transaction
from handfast.server.chassis.errors import InvalidFields, Violation, Violations
from handfast.server.chassis.requests import fields
from handfast.server.preferences.changes import MAX_VALUES, NOT_UPDATED
from handfast.server.preferences.definitions import Definitions, to_json
from handfast.server.preferences.errors import UNKNOWN_PREFERENCE, VALUE_NOT_ALLOWED, WRONG_TYPE
from handfast.server.preferences.tables import MAX_DESCRIPTION

MAX_ALLOWED_VALUES = 100
MAX_VALUE_BYTES = 4096
MAX_ELEMENTS = 100

_TYPES = {
    pb.PREFERENCE_TYPE_BOOLEAN: ("bool_value", "must be true or false"),
    pb.PREFERENCE_TYPE_NUMBER: ("number_value", "must be a number, neither NaN nor infinite"),
    pb.PREFERENCE_TYPE_STRING: ("string_value", "must be a string"),
    pb.PREFERENCE_TYPE_STRING_LIST: ("list_value", f"must be a list of up to {MAX_ELEMENTS} strings"),
}
"""How a value of each type is held, and the rule for it."""


def include_defaults(request: pb.GetPreferencesRequest | pb.BatchGetPreferencesRequest) -> None:
    """Refuses defaults within a transaction: they come from all definitions, and others could add to these."""
    if request.include_defaults and in_transaction():
        raise InvalidFields([Violation("include_defaults", "must be false within a transaction")])


def update(request: pb.UpdatePreferencesRequest, definitions: Definitions) -> tuple[str, ...]:
    """Returns the paths that change. A transaction need not lock the definitions that its writes go by, as a definition
    never changes.
    """
    with Violations.collect() as violations:
        values = request.preferences.values
        fields.check_id(violations, "preferences.user_id", request.preferences.user_id)
        paths = fields.masked_paths(
            violations,
            request.update_mask,
            maps=("values",),
            ignored=NOT_UPDATED,
            implied=(f"values.{key}" for key in sorted(values)),
        )
        named = {path.partition(".")[2] for path in paths}
        keys = set(values) if "values" in paths else named & values.keys()
        # Before anything else: no database takes any number of keys in one statement.
        if fields.check_count(violations, "preferences.values", len(keys), MAX_VALUES):
            defined = definitions.find([key for key in keys if fields.is_key(key)])
            for key in sorted(keys):
                field = f"preferences.values.{key}"
                if key in defined:
                    _check_value(violations, field, values[key], defined[key])
                else:
                    violations.add(field, "has no definition", UNKNOWN_PREFERENCE)
        fields.check_request_id(violations, request.request_id)
    return paths


def create_definition(request: pb.CreatePreferenceDefinitionRequest) -> None:
    with Violations.collect() as violations:
        definition = request.definition
        fields.check_key(violations, "definition.key", definition.key)
        fields.check_text(violations, "definition.description", definition.description, MAX_DESCRIPTION)
        fields.check_request_id(violations, request.request_id)
        if definition.type not in _TYPES:
            violations.add("definition.type", "must be BOOLEAN, NUMBER, STRING or STRING_LIST")
            return
        _check_values_of_definition(violations, definition)


def _check_values_of_definition(violations: Violations, definition: pb.PreferenceDefinition) -> None:
    count = len(definition.allowed_values)
    if not fields.check_count(violations, "definition.allowed_values", count, MAX_ALLOWED_VALUES):
        return
    is_list = definition.type == pb.PREFERENCE_TYPE_STRING_LIST
    each_type = pb.PREFERENCE_TYPE_STRING if is_list else definition.type
    for index, value in enumerate(definition.allowed_values):
        field = f"definition.allowed_values[{index}]"
        if _check_type(violations, field, value, each_type) and value in definition.allowed_values[:index]:
            violations.add(field, "must not repeat another")
    if definition.HasField("default_value"):
        _check_value(violations, "definition.default_value", definition.default_value, definition)


def _check_value(violations: Violations, field: str, value: Value, definition: pb.PreferenceDefinition) -> None:
    """Checks a value against the type and the allowed values of its definition."""
    if not _check_type(violations, field, value, definition.type):
        return
    allowed = list(definition.allowed_values)
    elements = value.list_value.values if definition.type == pb.PREFERENCE_TYPE_STRING_LIST else [value]
    if allowed and not all(element in allowed for element in elements):
        choices = ", ".join(_words(each) for each in allowed)
        violations.add(field, f"must be one of {choices}", VALUE_NOT_ALLOWED)


def _check_type(violations: Violations, field: str, value: Value, wanted: pb.PreferenceType.ValueType) -> bool:
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
    if not math.isfinite(value.number_value):
        return str(value.number_value)  # which is refused itself
    return json.dumps(to_json(value), ensure_ascii=False).removesuffix(".0")
