"""Checks of fields that several contracts have. Each check adds what is wrong to a `Violations`, under the path of the
field that it is given, such as `user.user_id`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from handfast.server.chassis.errors import Violations

MAX_ID = 64
_ID = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{MAX_ID - 2}}}[a-z0-9])?")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # all that Unicode has (Cc), now and ever
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")
_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
MAX_KEY = 63
MAX_PATHS = 1000
MAX_BATCH = 1000
"""How many resources one call may read."""
NANOSECONDS_PER_SECOND = 1_000_000_000


def is_id(value: str) -> bool:
    """Whether `value` has the form of an id: see `check_id`."""
    return _ID.fullmatch(value) is not None


def check_id(violations: Violations, field: str, value: str) -> None:
    """The id of a resource: 1 to MAX_ID lower-case letters, digits and hyphens, no hyphen at either end (AIP-122)."""
    if not value:
        violations.add(field, "is required")
    elif not is_id(value):
        violations.add(
            field, f"must be 1 to {MAX_ID} lower-case letters, digits and hyphens, with a letter or digit at either end"
        )


def require_id(field: str, value: str) -> None:
    """`check_id` for a request that has nothing else to check: raises InvalidFields."""
    if not is_id(value):
        with Violations.collect() as violations:
            check_id(violations, field, value)


def check_request_id(violations: Violations, value: str) -> None:
    """The id by which a write that is repeated is recognized (AIP-155): a UUID in lower case, or empty."""
    if value and not _UUID.fullmatch(value):
        violations.add(
            "request_id", "must be a UUID in lower case such as 123e4567-e89b-12d3-a456-426614174000, or empty"
        )


def is_key(key: str) -> bool:
    """Whether `key` can be the key of a map: up to MAX_KEY lower-case letters and digits, with single underscores
    between them. Field masks in JSON cannot carry other keys.
    """
    return len(key) <= MAX_KEY and _KEY.fullmatch(key) is not None


def check_key(violations: Violations, field: str, key: str) -> bool:
    """Returns whether `key` can be the key of a map: see `is_key`."""
    if is_key(key):
        return True
    rule = f"keys must match {_KEY.pattern} and have up to {MAX_KEY} characters"
    violations.add(field, f"{rule}, not {key[:MAX_KEY]!r}")
    return False


def check_text(violations: Violations, field: str, value: str, longest: int) -> None:
    """A text of up to `longest` characters, without control characters."""
    if len(value) > longest:
        violations.add(field, f"must have up to {longest} characters, not {len(value)}")
    if CONTROL_CHARACTER.search(value):
        violations.add(field, "must not have control characters")


def check_count(violations: Violations, field: str, count: int, most: int) -> bool:
    """Returns whether a list or a map with `count` entries has no more than `most`."""
    if count > most:
        violations.add(field, f"must have up to {most} entries, not {count}")
    return count <= most


def require_ids(field: str, values: Sequence[str]) -> None:
    """`check_batch` and `check_id` of each, for a request that has nothing else to check: raises InvalidFields."""
    with Violations.collect() as violations:
        if check_batch(violations, field, values):
            for index, value in enumerate(values):
                check_id(violations, f"{field}[{index}]", value)


def check_batch(violations: Violations, field: str, values: Sequence[str], largest: int = MAX_BATCH) -> bool:
    """The ids of a batch: 1 to `largest`, each only once. Returns whether the entries should now be checked one by one.
    They should not where there are too many: a request has room for millions, and checking them would take the time of
    all callers.
    """
    if not 1 <= len(values) <= largest:
        violations.add(field, f"must have 1 to {largest} entries, not {len(values)}")
        return False
    if len(set(values)) < len(values):
        violations.add(field, "must name each only once")
    return True


def masked_paths(
    violations: Violations,
    mask: FieldMask,
    *,
    scalars: Collection[str] = (),
    maps: Collection[str] = (),
    ignored: Collection[str] = (),
    implied: Iterable[str],
) -> tuple[str, ...]:
    """The paths that an update changes (AIP-134): those of its `update_mask`; all where that is `*`; `implied`, which
    are those set in the message, where it is empty. `maps` has the fields whose single keys can be named, as
    `labels.colour`. `ignored` has the fields that no update changes: a mask may name them, and what is in them, without
    effect (AIP-203). Paths that the mask cannot have are not among those returned.
    """
    if not mask.paths:
        return tuple(implied)
    if list(mask.paths) == ["*"]:
        return (*scalars, *maps)
    if len(mask.paths) > MAX_PATHS:
        violations.add("update_mask", f"must have up to {MAX_PATHS} paths, not {len(mask.paths)}")
        return ()
    paths = []
    for path in dict.fromkeys(mask.paths):
        name, _, key = path.partition(".")
        if path in scalars or path in maps or (name in maps and is_key(key)):
            paths.append(path)
        elif name not in ignored:
            known = ", ".join([*scalars, *(f"{each}, {each}.<key>" for each in maps)])
            violations.add("update_mask", f"has the path {path[:100]!r}; it can have {known}, or * alone")
    return tuple(paths)


def apply_paths(after: Message, asked: Message, paths: Sequence[str]) -> None:
    """Makes what these paths of `masked_paths` name in `after` as it is in `asked`, of the same type. (protobuf's own
    `FieldMask.MergeMessage` knows no keys of maps.)
    """
    part: Any = type(after)
    for path in paths:
        name, _, key = path.partition(".")
        wanted = getattr(asked, name)
        if key:
            getattr(after, name).pop(key, None)
            wanted = {key: wanted[key]} if key in wanted else {}
        else:
            after.ClearField(name)
        after.MergeFrom(part(**{name: wanted}))


def duration_microseconds(violations: Violations, field: str, duration: Duration, longest: int) -> int:
    """The microseconds of a duration, which must be well-formed, above 0, and at most `longest` seconds.
    https://protobuf.dev/reference/protobuf/google.protobuf/#duration says what is well-formed.
    """
    nanoseconds = duration.ToNanoseconds()
    if abs(duration.nanos) >= NANOSECONDS_PER_SECOND or duration.seconds * duration.nanos < 0:
        violations.add(field, "must have `nanos` below one second, and of the same sign as `seconds`")
    elif not 0 < nanoseconds <= longest * NANOSECONDS_PER_SECOND:
        violations.add(field, f"must be more than 0 and up to {longest} seconds")
    return nanoseconds // 1000


def check_reason(violations: Violations, field: str, reason: str, longest: int) -> None:
    """A reason in UPPER_SNAKE_CASE, of up to `longest` characters, as that of google.rpc.ErrorInfo is."""
    if len(reason) > longest or not _REASON.fullmatch(reason):
        violations.add(field, f"must match {_REASON.pattern} and have up to {longest} characters")
