"""What callers send leaves nothing behind in memory."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress

from handfast.server.chassis.errors import InvalidFields
from handfast.server.users import validation
from handfast.server.users.emails import email_claim
from handfast.users.v1.users_pb2 import CreateUserRequest, LookupUserRequest, User

CALLS = 500
ROOM = 100  # bytes for each call: one locale that is kept takes nine times that


def check(number: int) -> None:
    """Requests that are taken and that are refused, of texts that nobody sent before."""
    for wrong in ("", "!"):
        user = User(
            user_id=f"user{number}{wrong}",
            email=f"user{number}{wrong * 2}@d{number}.bücher{number}{wrong}.example.com",
            display_name=f"{number}",
            locale=f"en-x-{number:08}{wrong}",
            time_zone=f"Area/{number}" if wrong else "",
            labels={f"key{number}{wrong}": f"value {number}"},
        )
        with suppress(InvalidFields):
            validation.create(CreateUserRequest(user=user))
        with suppress(InvalidFields):
            validation.lookup(LookupUserRequest(email=user.email))
    email_claim(f"user{number}@bücher{number}.example.com")


def test_checking_what_callers_send_keeps_nothing_of_it() -> None:
    for number in range(CALLS):  # what is made once, and caches of a fixed size
        check(number)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(CALLS, 2 * CALLS):
            check(number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < CALLS * ROOM
