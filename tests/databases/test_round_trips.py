"""How often a server waits for PostgreSQL, so that nobody adds a round trip unseen."""

from __future__ import annotations

import itertools
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from handfast.server.accounts import tables
from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.coordinator.coordinator import Coordinator
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.core.model import BranchDecision, Decision, Outcome, Read, ResourceName
from handfast.server.transactions.participant.unit_of_work import Blocked, UnitOfWork
from handfast.users.v1.users_pb2 import UpdateUserRequest, UpdateUserResponse, User
from tests.databases.postgresql import PostgreSQL
from tests.transactions.participants import Users

ROUND_TRIPS = {
    "GetUser": 1,
    "UpdateUser": 2,
    "UpdateUser with a request id": 2,
    "a repeat of that": 4,
    "a stage": 3,
    "a stage that takes an email": 5,
    "a decision": 1,
    "a decision with a request id": 2,
    "10 decisions marked as finished": 1,
    "10 branches finished": 4,
    "read locks of 10 users, the first operation of their transaction": 4,
    "10 branches with a read lock each finished": 4,
    "10 users compared": 1,
    "a write that meets a read lock": 3,
}
"""Of each. BEGIN travels with the first statement, COMMIT with what nobody waits for."""
WARM = 12
"""Times after which the driver has prepared what it prepares."""


class Proxy(threading.Thread):
    """Stands between a database and its server, and counts how often the one waits for the other."""

    def __init__(self, folder: Path, server: PostgreSQL) -> None:
        super().__init__(daemon=True)
        self.round_trips = 0
        self._server = f"{server.socket_folder}/.s.PGSQL.5432"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen()
        self.start()

    def run(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def url(self, url: str) -> str:
        """The same database, through this."""
        folder = str(Path(self._listening.getsockname()).parent)
        return sa.make_url(url).update_query_dict({"host": folder}).render_as_string(hide_password=False)

    def close(self) -> None:
        self._listening.close()

    def _forward(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        asked = False
        with client, server, suppress(OSError):
            while True:
                # The server's answer first: what the client says while there is one belongs to the next round.
                ready, _, _ = select.select([server, client], [], [])
                source = server if server in ready else client
                received = source.recv(2**16)
                if not received:
                    return
                if source is client and not asked:
                    self.round_trips += 1
                asked = source is client
                (server if source is client else client).sendall(received)


@pytest.fixture
def proxy(server: PostgreSQL) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="handfast-") as folder, closing(Proxy(Path(folder), server)) as proxy:
        yield proxy


class Calls:
    """What is counted. Each is made of what is to be there before, and of what is done then."""

    def __init__(self, users: Users, decisions: DecisionStore, replies: ReplyStore) -> None:
        self._users, self._decisions, self._numbers = users, decisions, itertools.count()
        self._coordinator = Coordinator(
            decisions, replies, DecisionNotifier(decisions, {}), KeyedLock(waiting=1), OwnedIds(b"")
        )
        users.create("ada")
        self.calls: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
            "GetUser": (lambda: "ada", users.collection.get),
            "UpdateUser": (str, self.update),
            "UpdateUser with a request id": (new_id, self.update),
            "a repeat of that": (self.updated, self.update),
            "a stage": (self.new_user, lambda user_id: users.stage(new_id(), user_id)),
            "a stage that takes an email": (self.new_name, lambda user_id: users.stage(new_id(), user_id)),
            "a decision": (new_id, self.decide),
            "a decision with a request id": (new_id, self.decide_and_answer),
            "10 decisions marked as finished": (lambda: [self.decide(new_id()) for _ in range(10)], self.mark_finished),
            "10 branches finished": (lambda: [self.staged() for _ in range(10)], self.finish),
            "read locks of 10 users, the first operation of their transaction": (
                lambda: self.read(10),
                self.lock,
            ),
            "10 branches with a read lock each finished": (
                lambda: [BranchDecision(self.lock(self.read(1)), Outcome.ABORTED, 0) for _ in range(10)],
                self.finish,
            ),
            "10 users compared": (lambda: [self.new_user() for _ in range(10)], users.collection.revisions),
            "a write that meets a read lock": (self.locked, self.meet),
        }

    def new_name(self) -> str:
        return f"user-{next(self._numbers)}"

    def new_user(self) -> str:
        user_id = self.new_name()
        self._users.create(user_id)
        return user_id

    def update(self, request_id: str) -> None:
        after = User(user_id="ada", email="ada@example.com", display_name=self.new_name())
        request, reply = UpdateUserRequest(request_id=request_id), UpdateUserResponse()
        work = self._users.collection.changing("ada", lambda before: (after, reply))
        self._users.participant.write_plainly("Update", request, work, UpdateUserResponse)

    def updated(self) -> str:
        self.update(request_id := new_id())
        return request_id

    def read(self, count: int) -> list[Read]:
        """What a transaction notes that reads so many users."""
        revisions = self._users.collection.revisions([self.new_user() for _ in range(count)])
        return [Read(ResourceName("users", key), revision, held=False) for key, revision in revisions.items()]

    def lock(self, reads: list[Read]) -> str:
        self._users.lock(transaction_id := new_id(), 1, *reads)
        return transaction_id

    def locked(self) -> str:
        (read,) = self.read(1)
        self.lock([read])
        return read.resource.key

    def meet(self, user_id: str) -> None:
        work = self._users.collection.changing(user_id, lambda before: (before, UpdateUserResponse()))
        store = self._users.participant.store
        with pytest.raises(Blocked):
            store.database.write(lambda connection: work(UnitOfWork(store, connection)))

    def staged(self) -> BranchDecision:
        transaction_id = new_id()
        self._users.stage(transaction_id, self.new_user())
        return BranchDecision(transaction_id, Outcome.COMMITTED, 1)

    def finish(self, decisions: list[BranchDecision]) -> None:
        self._users.participant.finisher.finish(*decisions)

    def decide(self, transaction_id: str) -> str:
        self._decisions.decide(Decision(transaction_id, Outcome.COMMITTED, {"users": 1}))
        return transaction_id

    def decide_and_answer(self, transaction_id: str) -> None:
        answer = StoredReply("m", new_id(), b"", transaction_id, reply=b"reply")
        self._coordinator._decide(Decision(transaction_id, Outcome.COMMITTED, {"users": 1}), answer)

    def mark_finished(self, transaction_ids: list[str]) -> None:
        self._decisions.mark_finished(transaction_ids)


def test_what_servers_do_waits_for_postgresql_as_often_as_the_table_says(
    server: PostgreSQL, empty_database: str, proxy: Proxy
) -> None:
    users, accounts = Users(proxy.url(server.emptied())), Database(proxy.url(server.url(empty_database)))
    with closing(users.database), closing(accounts):
        upgrade(accounts, SCHEMA)
        found = {}
        decisions = DecisionStore(accounts, tables.coordinator)
        replies = ReplyStore(accounts, tables.coordinator.answers)
        for name, (prepare, do) in Calls(users, decisions, replies).calls.items():
            for _ in range(WARM):
                do(prepare())
            prepared, before = prepare(), proxy.round_trips
            do(prepared)
            found[name] = proxy.round_trips - before
        assert found == ROUND_TRIPS
