"""What calls were answered goes with the resource that they changed, in the same local transaction."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.errors import AnswerErased
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.start_errors import StartError
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.core.model import Outcome
from handfast.server.users.server import USERS, build
from handfast.server.users.tables import participant as tables
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    CreateUserResponse,
    DeleteUserRequest,
    DeleteUserResponse,
    User,
)
from tests.transactions.participants import Users

STEP: Any = importlib.import_module("handfast.server.users.migrations.versions.0005_erasure")


def create(users: Users, user_id: str) -> Callable[[], User]:
    """Creates the user, and returns what repeats the call."""
    user, request = User(user_id=user_id, email=f"{user_id}@example.com"), CreateUserRequest(request_id=new_id())
    work = users.collection.changing(user_id, lambda before: (user, CreateUserResponse(user=user)))

    def call() -> User:
        return users.participant.write_plainly("Create", request, work, CreateUserResponse).user

    assert call() == user
    return call


def delete(users: Users, *user_ids: str) -> None:
    """With one plain write."""

    def work(unit: Any) -> DeleteUserResponse:
        before = [unit.get(USERS, user_id) for user_id in user_ids]
        for user_id in user_ids:
            unit.delete(USERS, user_id)
        return DeleteUserResponse(user=before[0])

    users.participant.write_plainly("Delete", DeleteUserRequest(request_id=new_id()), work, DeleteUserResponse)


def stored(users: Users) -> str:
    """All that is kept for repeats of calls, and of open transactions."""
    with users.database.read() as connection:
        found = [connection.execute(sa.select(table)).all() for table in (tables.requests, tables.operations)]
    return str(found)


def test_a_plain_deletion_erases_the_answers_about_the_resource_and_no_others(users: Users) -> None:
    ada, bob = create(users, "ada"), create(users, "bob")
    delete(users, "ada")
    assert "ada@example.com" not in stored(users)
    with pytest.raises(AnswerErased):
        ada()
    assert bob().user_id == "bob"


def test_a_write_that_deletes_several_erases_the_answers_about_all(users: Users) -> None:
    ada, bob = create(users, "ada"), create(users, "bob")
    delete(users, "ada", "bob")
    assert "@example.com" not in stored(users)
    for repeat in (ada, bob):
        with pytest.raises(AnswerErased):
            repeat()


def test_a_transaction_that_deletes_erases_them_as_it_is_finished(users: Users) -> None:
    ada, tx = create(users, "ada"), new_id()
    users.stage_deletion(tx, "ada", 1)
    assert ada().email == "ada@example.com"
    assert users.finish(tx, Outcome.COMMITTED, 1)
    assert "ada@example.com" not in stored(users)
    with pytest.raises(AnswerErased):
        ada()


def test_a_transaction_that_is_rolled_back_erases_nothing_but_what_it_has_staged(users: Users) -> None:
    ada, tx = create(users, "ada"), new_id()
    users.stage(tx, "ada", 1, "countess@example.com")
    users.stage_deletion(tx, "ada", 2)
    assert users.finish(tx, Outcome.ABORTED, 0)
    assert "countess@example.com" not in stored(users)
    assert ada().email == "ada@example.com"


def test_answers_about_a_new_resource_of_the_same_key_stay(users: Users) -> None:
    first = create(users, "ada")
    delete(users, "ada")
    second = create(users, "ada")
    with pytest.raises(AnswerErased):
        first()
    assert second().email == "ada@example.com"


def run(database: Database, step: Callable[[], None]) -> None:
    with database.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        step()


def test_the_migration_keeps_the_answers_that_are_there(users: Users) -> None:
    ada = create(users, "ada")
    run(users.database, STEP.downgrade)
    run(users.database, STEP.upgrade)
    run(users.database, STEP.upgrade)  # a second time does nothing
    assert ada().email == "ada@example.com"


def test_a_server_without_the_migration_names_its_step(users: Users, database_url: str) -> None:
    run(users.database, STEP.downgrade)
    settings = SuiteSettings(name="users", listen="127.0.0.1:0", database_url=database_url, migrate=True)
    with pytest.raises(
        StartError, match="its table requests lacks about, is_erased: add a migration that calls add_erasure"
    ):
        build(settings)
