"""Checks the requests of UserService. A check raises InvalidFields, with all violations by their fields."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import langcodes
from email_validator import EmailNotValidError, validate_email

from handfast.server.chassis.errors import Violations
from handfast.server.chassis.requests import fields
from handfast.server.users.changes import MAX_LABELS, NOT_UPDATED, SCALARS, UPDATED
from handfast.server.users.tables import MAX_DISPLAY_NAME, MAX_EMAIL, MAX_LOCALE
from handfast.users.v1 import users_pb2 as pb

MAX_LABEL = 256

# Of the package and not of this machine, so that all servers take the same.
_TIME_ZONES = frozenset((files("tzdata") / "zones").read_text().split())


class _KeepsNothing(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        pass


# langcodes keeps each tag that it was ever asked about, refused ones too, and has no switch for that. Callers must not
# be able to fill the memory, and a locale is personal data.
langcodes.Language._PARSE_CACHE = langcodes.Language._INSTANCES = _KeepsNothing()


def _is_language_tag(tag: str) -> bool:
    """Whether `tag` has the form of BCP 47 (RFC 5646) and its subtags a meaning, deprecated ones included."""
    return "_" not in tag and langcodes.tag_is_valid(tag)  # langcodes also takes `pt_BR`, which BCP 47 does not


def create(request: pb.CreateUserRequest) -> None:
    with Violations.collect() as violations:
        user = request.user
        if user.user_id:
            fields.check_id(violations, "user.user_id", user.user_id)
        for path in UPDATED:
            _check(violations, user, path)
        fields.check_request_id(violations, request.request_id)


def update(request: pb.UpdateUserRequest) -> tuple[str, ...]:
    """Returns the paths that change."""
    with Violations.collect() as violations:
        user = request.user
        fields.check_id(violations, "user.user_id", user.user_id)
        paths = fields.masked_paths(
            violations,
            request.update_mask,
            scalars=SCALARS,
            maps=("labels",),
            ignored=NOT_UPDATED,
            implied=(path for path in UPDATED if getattr(user, path)),
        )
        for path in paths:
            _check(violations, user, path)
        fields.check_request_id(violations, request.request_id)
    return paths


def delete(request: pb.DeleteUserRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "user_id", request.user_id)
        fields.check_request_id(violations, request.request_id)


def lookup(request: pb.LookupUserRequest) -> None:
    with Violations.collect() as violations:
        _check_email(violations, "email", request.email)


def _check(violations: Violations, user: pb.User, path: str) -> None:
    """Checks what an update of `path` would store."""
    match path.partition(".")[0]:
        case "email":
            _check_email(violations, "user.email", user.email)
        case "display_name":
            fields.check_text(violations, "user.display_name", user.display_name, MAX_DISPLAY_NAME)
        case "locale":
            if user.locale and not (len(user.locale) <= MAX_LOCALE and _is_language_tag(user.locale)):
                rule = f"must be a BCP 47 language tag of up to {MAX_LOCALE} characters such as pt-BR, or empty"
                violations.add("user.locale", rule)
        case "time_zone":
            if user.time_zone and user.time_zone not in _TIME_ZONES:
                violations.add("user.time_zone", "must be a name of the IANA time zone database, or empty")
        case "labels":
            # Of a path of one label, that label, unless it is to go.
            key = path.partition(".")[2]
            checked = {key} & user.labels.keys() if key else user.labels.keys()
            if fields.check_count(violations, "user.labels", len(checked), MAX_LABELS):
                for each in sorted(checked):
                    if fields.check_key(violations, "user.labels", each):
                        fields.check_text(violations, f"user.labels.{each}", user.labels[each], MAX_LABEL)


def _check_email(violations: Violations, field: str, email: str) -> None:
    if not email:
        violations.add(field, "is required")
        return
    try:
        if len(email) > MAX_EMAIL:
            raise EmailNotValidError
        validate_email(email, check_deliverability=False)
    except EmailNotValidError:
        violations.add(field, f"must be an email address of up to {MAX_EMAIL} characters, such as ada@example.com")
