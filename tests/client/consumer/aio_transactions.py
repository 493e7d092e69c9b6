"""The same for asyncio."""

import asyncio
import uuid
from typing import assert_type

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.client import NotFound, Outcome
from handfast.client.aio import Transaction, connect
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest, UpdatePreferencesResponse
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    CreateUserResponse,
    DeleteUserRequest,
    GetUserRequest,
    GetUserResponse,
    UpdateUserRequest,
    UpdateUserResponse,
    User,
)
from handfast.users.v1.users_pb2_grpc import UserServiceStub


async def main() -> None:
    async with connect(participants={"credits": "localhost:50061"}) as suite:
        user_id = f"ada-{uuid.uuid4()}"
        dark = Preferences(user_id=user_id, values={"theme": Value(string_value="dark")})
        async with suite.transaction(timeout=10) as tx:
            created, updated = await asyncio.gather(
                tx.users.CreateUser(CreateUserRequest(user=User(user_id=user_id, email=f"{user_id}@example.com"))),
                tx.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=dark)),
            )
            assert_type(created, CreateUserResponse)
            assert_type(updated, UpdatePreferencesResponse)
        assert_type(tx.outcome, Outcome)
        print(tx.id, tx.outcome)

        async def rename(tx: Transaction) -> str:
            before = await tx.users.GetUser(GetUserRequest(user_id=user_id))
            assert_type(before, GetUserResponse)
            users = tx.stub(UserServiceStub, "users")
            request = UpdateUserRequest(
                user=User(user_id=user_id, display_name="Ada"), update_mask=FieldMask(paths=["display_name"])
            )
            assert_type(await users.UpdateUser(request), UpdateUserResponse)
            return before.user.display_name

        assert_type(await suite.transact(rename), str)
        users = suite.stub(UserServiceStub, "users")
        assert_type(await users.GetUser(GetUserRequest(user_id=user_id)), GetUserResponse)
        await suite.users.DeleteUser(DeleteUserRequest(user_id=user_id))
        try:
            await suite.transact(rename)
        except NotFound as error:
            print(error.service, error.reason, error.metadata)


if __name__ == "__main__":
    asyncio.run(main())
