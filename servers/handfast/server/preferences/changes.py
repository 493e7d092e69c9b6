"""What a write makes of preferences. It takes them as they were, None where they were never set, and returns them as
they will be, and the reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesResponse
from handfast.server.chassis.clock import Clock
from handfast.server.chassis.errors import Violations
from handfast.server.chassis.ids import new_etag
from handfast.server.chassis.requests.fields import apply_paths, check_count
from handfast.server.preferences.errors import PreferencesChanged
from handfast.server.preferences.resources import never_set

NOT_UPDATED = ("user_id", "update_time", "etag", "defaults")
MAX_VALUES = 256


def update(
    before: Preferences | None, asked: Preferences, paths: Sequence[str], clock: Clock
) -> tuple[Preferences, UpdatePreferencesResponse]:
    after = never_set(asked.user_id)
    if before is not None:
        after.CopyFrom(before)
    if asked.etag and asked.etag != after.etag:
        raise PreferencesChanged(asked.user_id)
    apply_paths(after, asked, paths)
    with Violations.collect() as violations:
        check_count(violations, "preferences.values", len(after.values), MAX_VALUES)
    if after.values != (before or never_set(asked.user_id)).values:
        after.update_time.FromMicroseconds(clock())
        after.etag = new_etag()
    return after, UpdatePreferencesResponse(preferences=after)
