"""What clients fight over: some accounts that stay, and what each register of theirs is.

joint/ID    a mark on both sides of an account: the user's label `joint` and the preference `joint`
user/ID     the display name
own/ID      the preference `own`
swap/PAIR   a label of two users, written whenever they swap their emails, as `MARK/0` where each has the email that it
            began with, and as `MARK/1` where each has the other's
life/ID     the mark of an account that is created and deleted once, on both sides like `joint`; ABSENT before and GONE
            after
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import Account, CreateAccountRequest
from handfast.client import AlreadyExists, ServiceError, Suite
from handfast.preferences.v1 import preferences_pb2 as preferences_pb
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.users.v1.users_pb2 import User
from tests.serializability.history import Read, Write

LIFE = "life-"
"""Begins the id of an account that is created and deleted. All others are not of this world."""
START = "start"
ABSENT, GONE = "absent", "gone"
PAIRS = 3
ATTEMPTS = 20

Reply = TypeVar("Reply")


@dataclass
class Seen:
    """What replies showed, and what was wrong with them. `operations` has what a transaction wrote, too."""

    operations: list[Read | Write] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def read(self, register: str, value: str) -> None:
        self.operations.append(Read(register, value))

    def write(self, register: str, value: str) -> None:
        self.operations.append(Write(register, value))


class World:
    """`tried_ids` and `tried_emails` are those of short-lived accounts, and the spare emails of swaps, whatever became
    of the attempt.
    """

    def __init__(self, prefix: str = "user", accounts: int = 2 * PAIRS) -> None:
        self._prefix = prefix
        self.ids = [f"{prefix}-{number}" for number in range(accounts)]
        self._lock = threading.Lock()
        self._lives: list[str] = []
        self.tried_ids: list[str] = []
        self.tried_emails: list[str] = []

    @staticmethod
    def initial(register: str) -> str:
        """The value of a register before anything happens."""
        match register.partition("/")[0]:
            case "life":
                return ABSENT
            case "swap":
                return f"{START}/0"
            case _:
                return START

    def create(self, client: Suite) -> None:
        for key in ("joint", "own", "life"):
            definition = preferences_pb.PreferenceDefinition(
                key=key, type=preferences_pb.PREFERENCE_TYPE_STRING, description="A mark of a test."
            )
            request = preferences_pb.CreatePreferenceDefinitionRequest(definition=definition)
            _create(client.preferences.CreatePreferenceDefinition, request)
        for id_ in self.ids:
            user = User(
                user_id=id_,
                email=self.email(id_, swapped=False),
                display_name=START,
                labels={"joint": START, "swap": f"{START}/0"},
            )
            preferences = Preferences(values={"joint": text(START), "own": text(START)})
            _create(client.accounts.CreateAccount, CreateAccountRequest(user=user, preferences=preferences))

    def pair(self, number: int) -> tuple[str, str]:
        return self.ids[2 * number], self.ids[2 * number + 1]

    def email(self, user_id: str, *, swapped: bool) -> str:
        index = self.ids.index(user_id)
        return f"{self._prefix}-{index ^ 1 if swapped else index}@example.com"

    def born(self, user_id: str) -> None:
        """An account was created, so that others may look at it from now on."""
        with self._lock:
            self._lives.append(user_id)

    def lives(self) -> list[str]:
        with self._lock:
            return list(self._lives)

    def not_there(self, user_id: str) -> str:
        """What it means that a short-lived account is not found."""
        return GONE if user_id in self._lives else ABSENT

    def tried(self, email: str, user_id: str = "") -> None:
        with self._lock:
            self.tried_emails.append(email)
            if user_id:
                self.tried_ids.append(user_id)

    # What a reply says of the registers

    def see_user(self, seen: Seen, user: User) -> None:
        _see_etag(seen, f"user {user.user_id} {user.etag}", user)
        if user.user_id not in self.ids:
            if user.user_id.startswith(LIFE):
                seen.read(f"life/{user.user_id}", user.labels["life"])
            return
        seen.read(f"joint/{user.user_id}", user.labels["joint"])
        seen.read(f"user/{user.user_id}", user.display_name)
        swap = user.labels["swap"]
        seen.read(f"swap/{self.ids.index(user.user_id) // 2}", swap)
        if user.email != self.email(user.user_id, swapped=swap.endswith("/1")):
            seen.faults.append(f"{user.user_id} has {user.email} after the swap {swap}")

    def see_preferences(self, seen: Seen, preferences: Preferences) -> None:
        _see_etag(seen, f"preferences {preferences.user_id} {preferences.etag}", preferences)
        values, user_id = preferences.values, preferences.user_id
        if user_id not in self.ids:
            seen.read(f"life/{user_id}", values["life"].string_value if "life" in values else self.not_there(user_id))
            return
        seen.read(f"joint/{user_id}", values["joint"].string_value)
        seen.read(f"own/{user_id}", values["own"].string_value)

    def see_account(self, seen: Seen, account: Account) -> None:
        self.see_user(seen, account.user)
        self.see_preferences(seen, account.preferences)


def text(value: str) -> Value:
    return Value(string_value=value)


def insist(method: Callable[[Any], Reply], request: Any) -> Reply:
    """Calls until it is answered, though servers may die meanwhile."""
    for _ in range(ATTEMPTS - 1):
        try:
            return method(request)
        except AlreadyExists:
            raise
        except ServiceError:
            time.sleep(0.5)
    return method(request)


def _create(method: Callable[[Any], object], request: Any) -> None:
    with contextlib.suppress(AlreadyExists):
        insist(method, request)


def _see_etag(seen: Seen, etag: str, message: Message) -> None:
    seen.etags[etag] = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:16]
