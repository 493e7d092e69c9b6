"""What must hold once faults have stopped: everything can be written again, and shows what was acknowledged last."""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import AlreadyExists, NotFound, ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import CreateUserRequest, UpdateUserRequest, User
from tests.crashes.world import World, text
from tests.transactions.calls import Transaction

PATIENCE = 60.0
"""Seconds after which something counts as stuck for good."""
LOOKED_AT = 60
"""How many short-lived accounts and emails at the most."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What could be written again after so many seconds (infinity: never), and what stood in the way last."""

    what: str
    seconds: float
    hindrance: str

    def __str__(self) -> str:
        return f"{self.what} after {self.seconds:.1f} s; last {self.hindrance}"


def time_to_free(client: Suite, world: World, seed: str) -> list[Freed]:
    """Writes rows on both sides, and emails, until they can be written. Clients may still be at their last operation,
    so what it writes is nothing that they look at: for emails it makes users in transactions that it rolls back.
    """
    since = time.monotonic()
    some = random.Random(seed)
    lives, emails = ([*some.sample(each, min(LOOKED_AT, len(each)))] for each in (world.tried_ids, world.tried_emails))
    writes: dict[str, Callable[[], object]] = {}
    for user_id in (*world.ids, *lives):
        user = User(user_id=user_id, time_zone="Europe/Berlin")
        preferences = Preferences(user_id=user_id, values={"theme": text("dark")})
        writes[f"user {user_id}"] = _write(client.users.UpdateUser, UpdateUserRequest(user=user))
        writes[f"preferences of {user_id}"] = _write(
            client.preferences.UpdatePreferences,
            UpdatePreferencesRequest(preferences=preferences, update_mask=FieldMask(paths=["values.theme"])),
        )
    for email in emails:
        writes[f"email {email}"] = functools.partial(_claim, client, email)

    def freed(what: str, write: Callable[[], object]) -> Freed:
        hindrance = "nothing"
        while time.monotonic() - since < PATIENCE:
            try:
                write()
            except (NotFound, AlreadyExists):
                pass  # nothing stood in the way of looking
            except ServiceError as error:
                hindrance = str(error)
                time.sleep(0.05)
                continue
            return Freed(what, time.monotonic() - since, hindrance)
        return Freed(what, math.inf, hindrance)

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(freed, writes.keys(), writes.values()))


def _claim(client: Suite, email: str) -> None:
    transaction = Transaction(client)
    try:
        transaction.stage("users", client.users.CreateUser, CreateUserRequest(user=User(email=email)))
    finally:
        transaction.rollback()


def _write(method: Callable[..., object], request: object) -> Callable[[], object]:
    return lambda: method(request, timeout=2.0)
