"""Who has changed what, and who was refused: one line of the log for each write, and for each call that was refused
because it is not known who calls, or because that caller may not make it.

The lines have `event: "audit"`. They are written where callers have identities, whatever `--log-level` says, and name
no person but by ids.
"""

from __future__ import annotations

import grpc
import structlog

from handfast.server.chassis.call import Call, Refused
from handfast.server.chassis.logs.values import loggable
from handfast.server.chassis.logs.writer import (
    GO_NAMES,
    MAX_NAME,
    PLACES,
    PLACES_WITH_WRITES,
    CallLog,
    encode,
    timestamp,
)

MAX_RESOURCE = 500
"""Characters of the ids that a line names."""
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

_FROM_THE_CALL = ("on_behalf_of", "transaction_id", "error.reason", "would_refuse")


class AuditLog:
    """Logs the calls of the server `service` that somebody may have to account for."""

    def __init__(self, service: str) -> None:
        self._service = service

    def ended(self, call: Call) -> None:
        """Writes the line of `call`, which is recorded, if it has one. A call that was refused as the server had too
        many, or stopped, has none."""
        is_refused = call.code in REFUSALS or "would_refuse" in call.log
        if not (call.method.writes or is_refused) or isinstance(call.refused, Refused):
            return
        assert call.code is not None
        service, _, method = call.path.removeprefix("/").rpartition("/")
        line: dict[str, object] = {
            "timestamp": timestamp(),
            "level": "info",
            "event": "audit",
            "service": self._service,
            "grpc.service": service[:MAX_NAME],
            "grpc.method": method[:MAX_NAME],
            "grpc.code": GO_NAMES[call.code],
            "request_id": call.request_id,
            "peer": call.peer,
        }
        if call.identity is not None:
            line["identity"] = call.identity.digest
            if call.identity.name:
                line["identity.name"] = call.identity.name
        if resource := _resource(call):
            line["resource"] = resource
        line |= {name: loggable(call.log[name]) for name in _FROM_THE_CALL if name in call.log}
        if CallLog.writer is None:
            structlog.get_logger().info(**line)
        else:
            was_begun = call.method.writes and call.refused is None and call.code not in REFUSALS
            CallLog.writer.write(encode(line), PLACES_WITH_WRITES if was_begun else PLACES)


def _resource(call: Call) -> str:
    permission = call.method.permission
    if permission is None:
        return ""
    return call.resources or permission.resource(call.request, call.reply)[:MAX_RESOURCE]
