"""UserService: each method checks its request, reads or writes users, and replies."""

from __future__ import annotations

import grpc

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import page_token, require_page
from handfast.server.transactions.participant import Collection
from handfast.server.users import changes, validation
from handfast.server.users.emails import email_claim
from handfast.server.users.errors import NoUserHasEmail, UserNotFound
from handfast.users.v1 import users_pb2 as pb
from handfast.users.v1.users_pb2_grpc import UserServiceServicer

USERS = "users"  # what page tokens are of


class UserServicer(UserServiceServicer):
    def __init__(self, users: Collection[pb.User], clock: Clock = now) -> None:
        self._users, self._clock = users, clock

    def CreateUser(self, request: pb.CreateUserRequest, context: grpc.ServicerContext) -> pb.CreateUserResponse:
        validation.create(request)
        user_id = request.user.user_id or new_id()
        return self._users.write(
            request,
            user_id,
            lambda before: changes.create(before, request.user, user_id, self._clock),
            pb.CreateUserResponse,
        )

    def GetUser(self, request: pb.GetUserRequest, context: grpc.ServicerContext) -> pb.GetUserResponse:
        fields.require_id("user_id", request.user_id)
        version = self._users.get(request.user_id)
        if version is None:
            raise UserNotFound(request.user_id)
        return pb.GetUserResponse(user=version.message, last_transaction_id=version.last_transaction_id)

    def LookupUser(self, request: pb.LookupUserRequest, context: grpc.ServicerContext) -> pb.LookupUserResponse:
        validation.lookup(request)
        user = self._users.holder(email_claim(request.email))
        if user is None:
            raise NoUserHasEmail
        return pb.LookupUserResponse(user=user)

    def BatchGetUsers(
        self, request: pb.BatchGetUsersRequest, context: grpc.ServicerContext
    ) -> pb.BatchGetUsersResponse:
        fields.require_ids("user_ids", request.user_ids)
        found = self._users.batch(request.user_ids)
        return pb.BatchGetUsersResponse(
            users=[found[user_id].message for user_id in request.user_ids if user_id in found],
            missing_user_ids=[user_id for user_id in request.user_ids if user_id not in found],
        )

    def ListUsers(self, request: pb.ListUsersRequest, context: grpc.ServicerContext) -> pb.ListUsersResponse:
        after, size = require_page(request, USERS)
        users, next_after = self._users.page(after, size)
        return pb.ListUsersResponse(users=users, next_page_token=page_token(USERS, next_after))

    def UpdateUser(self, request: pb.UpdateUserRequest, context: grpc.ServicerContext) -> pb.UpdateUserResponse:
        paths = validation.update(request)
        return self._users.write(
            request,
            request.user.user_id,
            lambda before: changes.update(before, request.user, paths, self._clock),
            pb.UpdateUserResponse,
        )

    def DeleteUser(self, request: pb.DeleteUserRequest, context: grpc.ServicerContext) -> pb.DeleteUserResponse:
        validation.delete(request)
        return self._users.write(
            request,
            request.user_id,
            lambda before: changes.delete(before, request.user_id, request.etag),
            pb.DeleteUserResponse,
        )
