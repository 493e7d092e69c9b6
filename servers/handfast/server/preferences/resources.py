"""Preferences as rows and as messages. Those that were never set have no row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.preferences.definitions import to_json
from handfast.server.preferences.tables import preferences
from handfast.server.transactions.participant import ResourceType


class PreferencesResources(ResourceType[Preferences]):
    def __init__(self) -> None:
        super().__init__(preferences, Preferences)

    def to_message(self, row: Any) -> Preferences:
        values = Struct()
        values.update(row.values)
        preferences = Preferences(user_id=row.user_id, values=values.fields, etag=row.etag)
        if row.update_time:
            preferences.update_time.FromMicroseconds(row.update_time)
        return preferences

    def to_columns(self, message: Preferences) -> Mapping[str, Any]:
        return {
            "values": {key: to_json(value) for key, value in message.values.items()},
            "update_time": message.update_time.ToMicroseconds(),
            "etag": message.etag,
        }

    def is_erased(self, message: Preferences | None) -> bool:
        return message is None or not message.values


def never_set(user_id: str) -> Preferences:
    return Preferences(user_id=user_id, etag="0")
