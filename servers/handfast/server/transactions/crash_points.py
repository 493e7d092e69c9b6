"""The points of the protocol at which tests make a server die (`chassis/crash_points.py` says how)."""

from __future__ import annotations

from handfast.server.chassis.crash_points import CrashPoints

POINTS = {
    "coordinator.staged": "all participants have staged; the decision is not written yet",
    "coordinator.decided": "the decision is durable; the caller has not been answered",
    "notifier.sending": "decisions are about to be sent to a participant",
    "notifier.confirmed": "it has confirmed them; nothing of that is marked in the database",
    "participant.staging": "a staged change is written; its local transaction is not committed",
    "participant.staged": "it is committed; the caller has not been answered",
    "participant.finishing": "a branch is applied or dropped; its local transaction is not committed",
    "participant.finished": "it is committed; the caller has not been answered",
}

reached = CrashPoints(POINTS).reached
