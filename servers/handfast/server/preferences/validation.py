"""Checks the requests of PreferencesService. A check raises InvalidFields, with all violations by their fields."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2 as pb
from handfast.server.chassis.errors import Violations
from handfast.server.chassis.requests import fields
from handfast.server.preferences.changes import MAX_VALUES, NOT_UPDATED
from handfast.server.preferences.definitions import Definitions
from handfast.server.preferences.errors import UNKNOWN_PREFERENCE
from handfast.server.preferences.tables import MAX_DESCRIPTION
from handfast.server.preferences.values import check_type, check_value

MAX_ALLOWED_VALUES = 100


def update(request: pb.UpdatePreferencesRequest, definitions: Definitions) -> tuple[str, ...]:
    """Returns the paths that change."""
    with Violations.collect() as violations:
        values = request.preferences.values
        fields.check_id(violations, "preferences.user_id", request.preferences.user_id)
        paths = fields.masked_paths(
            violations,
            request.update_mask,
            maps=("values",),
            ignored=NOT_UPDATED,
            implied=[f"values.{key}" for key in sorted(values)],
        )
        named = {path.partition(".")[2] for path in paths}
        keys = set(values) if "values" in paths else named & values.keys()
        # Before anything else: no database takes any number of keys in one statement.
        if fields.check_count(violations, "preferences.values", len(keys), MAX_VALUES):
            _check_defined(violations, {key: values[key] for key in sorted(keys)}, definitions)
        fields.check_request_id(violations, request.request_id)
    return paths


def create_definition(request: pb.CreatePreferenceDefinitionRequest) -> None:
    with Violations.collect() as violations:
        definition = request.definition
        fields.check_key(violations, "definition.key", definition.key)
        fields.check_text(violations, "definition.description", definition.description, MAX_DESCRIPTION)
        fields.check_request_id(violations, request.request_id)
        if definition.type == pb.PREFERENCE_TYPE_UNSPECIFIED or definition.type not in pb.PreferenceType.values():
            violations.add("definition.type", "must be BOOLEAN, NUMBER, STRING or STRING_LIST")
            return
        _check_values(violations, definition)


def _check_defined(violations: Violations, values: Mapping[str, Value], definitions: Definitions) -> None:
    defined = definitions.find([key for key in values if fields.is_key(key)])
    for key, value in values.items():
        field = f"preferences.values.{key}"
        if key in defined:
            check_value(violations, field, value, defined[key])
        else:
            violations.add(field, "has no definition", UNKNOWN_PREFERENCE)


def _check_values(violations: Violations, definition: pb.PreferenceDefinition) -> None:
    count = len(definition.allowed_values)
    if not fields.check_count(violations, "definition.allowed_values", count, MAX_ALLOWED_VALUES):
        return
    is_list = definition.type == pb.PREFERENCE_TYPE_STRING_LIST
    each_type = pb.PREFERENCE_TYPE_STRING if is_list else definition.type
    for index, value in enumerate(definition.allowed_values):
        field = f"definition.allowed_values[{index}]"
        if check_type(violations, field, value, each_type) and value in definition.allowed_values[:index]:
            violations.add(field, "must not repeat another")
    if definition.HasField("default_value"):
        check_value(violations, "definition.default_value", definition.default_value, definition)
