"""What callers ask for: requests for the keys and emails of a profile, each write with a tag of its own."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1 import users_pb2 as users
from tests.simulation.bank import GetStatementRequest, MoveRequest

if TYPE_CHECKING:
    from tests.simulation.world import World

KEYS = ("u1", "u2", "u3")
EMAILS = tuple(f"{name}@example.com" for name in ("ada", "bob", "cy", "dee"))
ACCOUNTS = ("a1", "a2", "a3", "a4")
"""Of the bank: so many that two moves can be about none of the same, and one look at what the other changes."""
SET = Value(string_value="set")


class Requests:
    def __init__(self, world: World, name: str) -> None:
        self._world, self._rng, self._name = world, world.rng, name
        self.keys, self.emails = KEYS[: world.profile.accounts], EMAILS[: world.profile.emails]
        self._tags = 0

    def key(self) -> str:
        return self._rng.choice(self.keys)

    def email(self) -> str:
        return self._rng.choice(self.emails)

    def tag(self) -> str:
        self._tags += 1
        return f"w{self._name[-1]}x{self._tags}"

    def request_id(self) -> str:
        id_ = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._world.name_request(id_)
        return id_

    def user_update(self, key: str = "", tag: str = "") -> users.UpdateUserRequest:
        tag = tag or self.tag()
        user = users.User(user_id=key or self.key(), labels={tag: "set"})
        paths = [self._one_or_all("labels", tag)]
        if self._rng.random() < self._world.profile.moving:
            user.email = self.email()
            paths.append("email")
        return users.UpdateUserRequest(user=user, update_mask=FieldMask(paths=paths))

    def user_creation(self, key: str = "", tag: str = "", email: str = "") -> users.CreateUserRequest:
        return users.CreateUserRequest(
            user=users.User(
                user_id=key or self.key(),
                email=email or self.email(),
                labels={tag or self.tag(): "set"},
            )
        )

    def user_deletion(self) -> users.DeleteUserRequest:
        return users.DeleteUserRequest(user_id=self.key())

    def preferences_update(self, key: str = "", tag: str = "") -> UpdatePreferencesRequest:
        tag = tag or self.tag()
        return UpdatePreferencesRequest(
            preferences=Preferences(user_id=key or self.key(), values={tag: SET}),
            update_mask=FieldMask(paths=[self._one_or_all("values", tag)]),
        )

    def move(self) -> Any:
        giver, taker, third = self._rng.sample(ACCOUNTS, 3)
        return MoveRequest(
            giver=giver,
            taker=taker,
            looks_at=third if self._rng.random() < 0.5 else "",
            amount=self._rng.randint(1, 4),
            swaps_aliases=self._rng.random() < 0.4,
            drops_entry_before=self._rng.random() < 0.3,
            tag=self.tag(),
        )

    def statement(self) -> Any:
        return GetStatementRequest(account_ids=self._rng.sample(ACCOUNTS, self._rng.randint(1, 3)))

    def _one_or_all(self, entries: str, tag: str) -> str:
        """To replace all shows when a write is applied twice, to add one when another is lost."""
        return entries if self._rng.random() < 0.4 else f"{entries}.{tag}"
