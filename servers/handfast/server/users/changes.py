"""What a write makes of a user. Each function takes the user as it was, None where there was none, and returns the user
as it will be, None where it is deleted, and the reply. It raises an error of `errors.py` where the write is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from handfast.server.chassis.clock import Clock
from handfast.server.chassis.errors import Violations
from handfast.server.chassis.ids import new_etag
from handfast.server.chassis.requests.fields import apply_paths, check_count
from handfast.server.users.errors import UserAlreadyExists, UserChanged, UserNotFound
from handfast.users.v1.users_pb2 import CreateUserResponse, DeleteUserResponse, UpdateUserResponse, User

SCALARS = ("email", "display_name", "locale", "time_zone")
UPDATED = (*SCALARS, "labels")
NOT_UPDATED = ("user_id", "create_time", "update_time", "etag")
MAX_LABELS = 64


def create(before: User | None, asked: User, user_id: str, clock: Clock) -> tuple[User, CreateUserResponse]:
    if before is not None:
        raise UserAlreadyExists(user_id)
    user = User(user_id=user_id)
    apply_paths(user, asked, UPDATED)
    _stamp(user, clock)
    user.create_time.CopyFrom(user.update_time)
    return user, CreateUserResponse(user=user)


def update(before: User | None, asked: User, paths: Sequence[str], clock: Clock) -> tuple[User, UpdateUserResponse]:
    user = _unchanged(before, asked.user_id, asked.etag)
    after = User()
    after.CopyFrom(user)
    apply_paths(after, asked, paths)
    with Violations.collect() as violations:
        check_count(violations, "user.labels", len(after.labels), MAX_LABELS)
    if after != user:
        _stamp(after, clock)
    return after, UpdateUserResponse(user=after)


def delete(before: User | None, user_id: str, etag: str) -> tuple[None, DeleteUserResponse]:
    return None, DeleteUserResponse(user=_unchanged(before, user_id, etag))


def _unchanged(before: User | None, user_id: str, etag: str) -> User:
    if before is None:
        raise UserNotFound(user_id)
    if etag and etag != before.etag:
        raise UserChanged(user_id)
    return before


def _stamp(user: User, clock: Clock) -> None:
    user.update_time.FromMicroseconds(clock())
    user.etag = new_etag()
