"""Transactions that a client runs at random: they read some rows, and write some of them, or others."""

from __future__ import annotations

import random
from collections.abc import Callable

from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import Outcome, ServiceError, Suite, Transaction
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.crashes.world import Seen, World, text

TIMEOUT = 4.0
"""Seconds that a transaction may take, with all its reruns."""
USERS, PREFERENCES = "users", "preferences"


class Refused(Exception):
    """A transaction has certainly not been committed."""


class GivenUp(Exception):
    """What a transaction is left by, now and then."""


def transact(suite: Suite, attempt: Callable[[Transaction], None], timeout: float) -> None:
    """As `suite.transact`. Raises Refused where the last attempt is aborted, as all those before it are, and
    ServiceError where nobody knows.
    """
    last: list[Transaction] = []

    def noted(tx: Transaction) -> None:
        last[:] = [tx]
        attempt(tx)

    try:
        suite.transact(noted, timeout)
    except ServiceError as error:
        if not last or last[0].outcome is Outcome.ABORTED:
            raise Refused(error.reason or error.status.name) from error
        raise


class Row:
    """A user or preferences, as they are read and written: in a transaction, or by a call on its own."""

    def __init__(self, world: World, service: str, user_id: str) -> None:
        self._world, self._service, self._user_id = world, service, user_id

    def read(self, by: Suite | Transaction, seen: Seen) -> str:
        """Returns the etag."""
        if self._service == USERS:
            user = by.users.GetUser(GetUserRequest(user_id=self._user_id)).user
            self._world.see_user(seen, user)
            return user.etag
        preferences = by.preferences.GetPreferences(GetPreferencesRequest(user_id=self._user_id)).preferences
        self._world.see_preferences(seen, preferences)
        return preferences.etag

    def write(self, by: Suite | Transaction, seen: Seen, mark: str, etag: str = "") -> None:
        """Notes the write before it is sent: it may have its effect, whatever the client is told."""
        if self._service == USERS:
            seen.write(f"user/{self._user_id}", mark)
            user = User(user_id=self._user_id, display_name=mark, etag=etag)
            request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["display_name"]))
            self._world.see_user(seen, by.users.UpdateUser(request).user)
        else:
            seen.write(f"own/{self._user_id}", mark)
            preferences = Preferences(user_id=self._user_id, values={"own": text(mark)}, etag=etag)
            update = UpdatePreferencesRequest(preferences=preferences, update_mask=FieldMask(paths=["values.own"]))
            self._world.see_preferences(seen, by.preferences.UpdatePreferences(update).preferences)


class Transactions:
    """Each method runs one, and says what it saw. Raises Refused where it is aborted, and ServiceError where nobody
    knows.
    """

    def __init__(
        self, suite: Suite, world: World, chance: random.Random, mark: Callable[[], str], timeout: float = TIMEOUT
    ) -> None:
        self._suite, self._world, self._random, self._mark, self._timeout = suite, world, chance, mark, timeout

    def read(self, seen: Seen) -> None:
        self._once(seen, self._work(writes=0))

    def write(self, seen: Seen) -> None:
        self._once(seen, self._work(writes=self._random.randint(1, 2)))

    def rerun(self, seen: Seen) -> None:
        """By `transact`. What its last attempt saw is what counts: those before it are aborted."""
        work = self._work(writes=self._random.randint(0, 2))

        def attempt(tx: Transaction) -> None:
            seen.operations.clear()
            work(tx, seen)

        transact(self._suite, attempt, self._timeout)

    def _once(self, seen: Seen, work: Callable[[Transaction, Seen], None]) -> None:
        """Gives it up now and then."""
        tx = self._suite.transaction(timeout=self._timeout)
        try:
            with tx:
                work(tx, seen)
                if self._random.random() < 0.1:
                    raise GivenUp
        except GivenUp as error:
            raise Refused("given up") from error
        except ServiceError as error:
            if tx.outcome is Outcome.ABORTED:
                raise Refused(error.reason or error.status.name) from error
            raise

    def _work(self, writes: int) -> Callable[[Transaction, Seen], None]:
        """Reads some rows, and then writes so many, most of them among those."""
        rows = [Row(self._world, service, id_) for id_ in self._world.ids for service in (USERS, PREFERENCES)]
        chosen = self._random.sample(rows, self._random.randint(2, 4))
        written = self._random.sample(chosen if self._random.random() < 0.8 else rows, writes)
        marks = [self._mark() for _ in written]

        def work(tx: Transaction, seen: Seen) -> None:
            for row in chosen:
                row.read(tx, seen)
            for row, mark in zip(written, marks, strict=True):
                row.write(tx, seen, mark)

        return work
