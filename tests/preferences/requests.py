"""Values, definitions and preferences, in short."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import (
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    PreferenceDefinition,
    Preferences,
    PreferenceType,
    UpdatePreferencesRequest,
)

UNKNOWN_FIELD = b"\xf8\x7f\x01"
"""On the wire: number 2047, the integer 1."""


def value(plain: Any) -> Value:
    """A value from what JSON would have: a boolean, number, string, list, object or None."""
    return json_format.ParseDict(plain, Value())


def new_key() -> str:
    """A key that no other test defines."""
    return f"k{uuid.uuid4().hex}"


def definition(kind: PreferenceType.ValueType, *allowed: Any, **fields: Any) -> PreferenceDefinition:
    """A definition of a new key."""
    allowed_values = [value(each) for each in allowed]
    return PreferenceDefinition(**{"key": new_key(), "type": kind, "allowed_values": allowed_values, **fields})


def define(client: Suite, kind: PreferenceType.ValueType, *allowed: Any, **fields: Any) -> str:
    """The key of a new definition."""
    request = CreatePreferenceDefinitionRequest(definition=definition(kind, *allowed, **fields))
    return client.preferences.CreatePreferenceDefinition(request).definition.key


def update(user_id: str, values: Mapping[str, Any], *paths: str, etag: str = "") -> UpdatePreferencesRequest:
    """An update to these values, of these paths or of those that are implied where there are none."""
    preferences = Preferences(user_id=user_id, etag=etag, values={key: value(each) for key, each in values.items()})
    return UpdatePreferencesRequest(preferences=preferences, update_mask=FieldMask(paths=paths))


def set_values(client: Suite, user_id: str, values: Mapping[str, Any], *paths: str, etag: str = "") -> Preferences:
    """The preferences after such an update."""
    return client.preferences.UpdatePreferences(update(user_id, values, *paths, etag=etag)).preferences


def get(client: Suite, user_id: str, *, include_defaults: bool = False) -> Preferences:
    request = GetPreferencesRequest(user_id=user_id, include_defaults=include_defaults)
    return client.preferences.GetPreferences(request).preferences


def plain_values(preferences: Preferences) -> dict[str, Any]:
    return {key: json_format.MessageToDict(each) for key, each in preferences.values.items()}
