"""What callers ask for: requests for the keys and emails of a profile, each write with a tag of its own."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1 import users_pb2 as users

if TYPE_CHECKING:
    from tests.simulation.world import World

KEYS = ("u1", "u2", "u3")
EMAILS = tuple(f"{name}@example.com" for name in ("ada", "bob", "cy", "dee"))
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

    def _one_or_all(self, entries: str, tag: str) -> str:
        """To replace all shows when a write is applied twice, to add one when another is lost."""
        return entries if self._rng.random() < 0.4 else f"{entries}.{tag}"
