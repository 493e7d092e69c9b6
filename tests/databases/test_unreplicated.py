"""What PostgreSQL has committed and shows, though no standby has it: nobody is told of it before one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import pytest
from sqlalchemy.exc import DBAPIError

from handfast.server.accounts import tables
from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.errors import DatabaseUnavailable
from handfast.server.chassis.errors.database import kind_of
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import load_key
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.participant.service import ParticipantServicer
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import UpdateUserRequest, UpdateUserResponse, User
from tests.databases.postgresql import PostgreSQL
from tests.databases.standby import no_standby, waiting_for_standby
from tests.eventually import PATIENCE, eventually
from tests.transactions.participants import Users

Told = Callable[[], object]


class Case(NamedTuple):
    """`write` is done by one server. Another is asked by `tell`, and then says that it was done."""

    write: Told
    tell: Told


def test_what_no_standby_has_is_told_only_once_one_has_it(own_server: PostgreSQL, case: Case) -> None:
    with ThreadPoolExecutor(1) as pool:
        with no_standby(own_server):
            for each in case:
                assert is_unknown(pool.submit(each), cancelling_waits_of=own_server)
            telling = pool.submit(case.tell)
            assert eventually(lambda: waiting_for_standby(own_server) or telling.done())
            assert not telling.done()
        assert telling.result(PATIENCE)


def test_what_a_primary_finds_in_its_log_when_it_starts_again_is_told_only_once_a_standby_has_it(
    own_server: PostgreSQL, answers: Case
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with no_standby(own_server):
            writing = pool.submit(answers.write)
            assert eventually(lambda: waiting_for_standby(own_server))
            own_server.kill_and_start()
            assert isinstance(writing.exception(PATIENCE), DBAPIError)
            telling = pool.submit(answers.tell)
            assert eventually(lambda: waiting_for_standby(own_server) or telling.done())
            assert not telling.done()
        assert telling.result(PATIENCE)


def is_unknown(done: Future[object], cancelling_waits_of: PostgreSQL) -> bool:
    """Whether it ends with the error of a commit of which it is not known whether it lasts."""
    while not done.done():
        cancelling_waits_of.execute(
            *(f"SELECT pg_cancel_backend({pid})" for pid in waiting_for_standby(cancelling_waits_of))
        )
    error = done.exception()
    return isinstance(error, DBAPIError) and kind_of(error) is DatabaseUnavailable


@pytest.fixture
def answers(participants: tuple[Users, Users]) -> Case:
    return request_id(*participants)


@pytest.fixture
def participants(own_server: PostgreSQL) -> Iterator[tuple[Users, Users]]:
    """Two servers on one database."""
    url = own_server.emptied()
    one, other = Users(url), Users(url)
    with closing(one.database), closing(other.database):
        one.create("ada")
        yield one, other


@pytest.fixture
def coordinators(own_server: PostgreSQL) -> Iterator[tuple[Database, Database]]:
    """The database as two servers see it."""
    url = own_server.emptied()
    with closing(Database(url)) as one, closing(Database(url)) as other:
        upgrade(one, SCHEMA)
        yield one, other


def request_id(one: Users, other: Users) -> Case:
    request = UpdateUserRequest(request_id=new_id())
    after = User(user_id="ada", email="countess@example.com")

    def update(users: Users) -> bool:
        work = users.collection.changing("ada", lambda before: (after, UpdateUserResponse(user=after)))
        return users.participant.write_plainly("Update", request, work, UpdateUserResponse).user == after

    return Case(partial(update, one), partial(update, other))


def staged(one: Users, other: Users) -> Case:
    id_ = new_id()

    def stage(users: Users) -> bool:
        users.stage(id_, "grace")
        return True

    return Case(partial(stage, one), partial(stage, other))


def branch(one: Users, other: Users) -> Case:
    id_ = new_id()
    one.stage(id_, "grace")

    def close(users: Users) -> bool:
        request, context = pb.CloseBranchRequest(transaction_id=id_), object()
        closed = ParticipantServicer(users.participant).CloseBranch(request, context)  # type: ignore[arg-type]
        return closed.branch.operation_count == 1

    return Case(partial(close, one), partial(close, other))


def finished(one: Users, other: Users) -> Case:
    id_ = new_id()
    one.stage(id_, "grace")
    return Case(*(partial(users.finish, id_, Outcome.COMMITTED, 1) for users in (one, other)))


def account_call(one: Database, other: Database) -> Case:
    answer = StoredReply("m", new_id(), b"", new_id(), reply=b"reply")
    stores = [ReplyStore(database, tables.coordinator.answers) for database in (one, other)]

    def insert() -> None:
        one.write(partial(stores[0].insert, answer=answer))

    return Case(insert, lambda: stores[1].find("m", answer.request_id) == answer)


def decision_to_who_asks(one: Database, other: Database) -> Case:
    decided = Decision(new_id(), Outcome.COMMITTED, {"users": 1})
    asked = DecisionStore(other, tables.coordinator)

    def find() -> bool:
        return asked.find([decided.transaction_id])[0][decided.transaction_id].decision == decided

    return Case(partial(DecisionStore(one, tables.coordinator).decide, decided), find)


def decision_to_participants(one: Database, other: Database) -> Case:
    decided = Decision(new_id(), Outcome.COMMITTED, {"users": 1})
    told: list[str] = []

    class Participant:
        def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
            told.extend(each.transaction_id for each in request.decisions)
            return pb.FinishTransactionsResponse()

    stubs: Any = {"users": Participant()}
    notifier = DecisionNotifier(DecisionStore(other, tables.coordinator), stubs).by_participant["users"]

    def notify() -> bool:
        notifier.run_once()
        return told == [decided.transaction_id]

    return Case(partial(DecisionStore(one, tables.coordinator).decide, decided), notify)


def decision_to_who_decides_otherwise(one: Database, other: Database) -> Case:
    """Whoever stored it may have lost its connection in COMMIT, or may have been told that the wait was cancelled."""
    decided = Decision(new_id(), Outcome.COMMITTED, {"users": 1})
    aborted = Decision(decided.transaction_id, Outcome.ABORTED, {"users": 0})
    decides = DecisionStore(other, tables.coordinator)
    return Case(
        partial(DecisionStore(one, tables.coordinator).decide, decided),
        lambda: decides.decide(aborted).decision == decided,
    )


def key(one: Database, other: Database) -> Case:
    return Case(*(partial(load_key, database, tables.coordinator.owner_key) for database in (one, other)))


OF_PARTICIPANTS: dict[str, Callable[[Users, Users], Case]] = {
    "the answer of a request id": request_id,
    "the answer of a staged call": staged,
    "what a branch holds": branch,
    "that a branch is finished": finished,
}
OF_COORDINATORS: dict[str, Callable[[Database, Database], Case]] = {
    "the answer of an account call": account_call,
    "a decision, to who asks": decision_to_who_asks,
    "a decision, to participants": decision_to_participants,
    "a decision, to who decides otherwise": decision_to_who_decides_otherwise,
    "the key of transaction ids": key,
}


@pytest.fixture(params=[*OF_PARTICIPANTS, *OF_COORDINATORS])
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    if name in OF_PARTICIPANTS:
        return OF_PARTICIPANTS[name](*request.getfixturevalue("participants"))
    return OF_COORDINATORS[name](*request.getfixturevalue("coordinators"))
