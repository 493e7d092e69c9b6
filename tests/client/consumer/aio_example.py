"""The same for asyncio: calls run side by side, and raise the same errors."""

import asyncio
import uuid
from typing import assert_type

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    CreateAccountResponse,
    DeleteAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import NotFound, Outcome
from handfast.client.aio import Suite, Transaction, connect
from handfast.preferences.v1.preferences_pb2 import (
    GetPreferencesRequest,
    GetPreferencesResponse,
    Preferences,
    UpdatePreferencesRequest,
    UpdatePreferencesResponse,
)
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, UpdateUserRequest, UpdateUserResponse, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub


async def main() -> None:
    async with connect() as suite:
        user_id = f"ada-{uuid.uuid4()}"
        created = await suite.accounts.CreateAccount(
            CreateAccountRequest(user=User(user_id=user_id, email=f"{user_id}@example.com"))
        )
        assert_type(created, CreateAccountResponse)
        await suite.accounts.UpdateUserAndPreferences(
            UpdateUserAndPreferencesRequest(
                user=User(user_id=user_id, display_name="Ada"),
                user_update_mask=FieldMask(paths=["display_name"]),
                preferences=Preferences(values={"theme": Value(string_value="dark")}),
            )
        )
        await both_sides(suite, user_id)
        await in_one_transaction(suite, user_id)
        await suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))
        try:
            await suite.users.GetUser(GetUserRequest(user_id=user_id))
        except NotFound as error:
            print(error.service, error.reason, error.metadata, error.request_id)


async def both_sides(suite: Suite, user_id: str) -> None:
    user, preferences = await asyncio.gather(
        suite.users.GetUser(GetUserRequest(user_id=user_id)),
        suite.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)),
    )
    assert_type(user, GetUserResponse)
    assert_type(preferences, GetPreferencesResponse)
    assert user.user.display_name == "Ada"
    assert preferences.preferences.values["theme"].string_value == "dark"


async def in_one_transaction(suite: Suite, user_id: str) -> None:
    painted = Preferences(user_id=user_id, values={"theme": Value(string_value="light")})
    async with suite.transaction() as tx:
        user, preferences = await asyncio.gather(
            tx.users.UpdateUser(UpdateUserRequest(user=User(user_id=user_id, display_name="Countess"))),
            tx.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=painted)),
        )
        assert_type(user, UpdateUserResponse)
        assert_type(preferences, UpdatePreferencesResponse)
    assert_type(tx.outcome, Outcome)
    assert tx.outcome is Outcome.COMMITTED
    assert_type(await suite.transact(lambda tx: rename(tx, user_id)), str)


async def rename(tx: Transaction, user_id: str) -> str:
    reply = await tx.stub(UserServiceStub, "users").UpdateUser(
        UpdateUserRequest(user=User(user_id=user_id, display_name="Lady Lovelace"))
    )
    assert_type(reply, UpdateUserResponse)
    return reply.user.display_name


if __name__ == "__main__":
    asyncio.run(main())
