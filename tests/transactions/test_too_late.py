"""What a caller believes undone is not done: a call that is over when its local transaction is about to commit, commits
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace

import pytest

from handfast.server.accounts import tables
from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.errors import CallCancelled
from handfast.server.transactions.coordinator.coordinator import Coordinator
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.users.v1.users_pb2 import CreateUserRequest, CreateUserResponse, User
from tests.people import new_id
from tests.transactions.participants import Users, old_id

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))


def served(work: Callable[[], object], leaving: Callable[[Callable[[], object]], None]) -> None:
    """Serves a call whose caller leaves where `leaving` has it leave, and that is refused for it."""
    call = Call(METHOD, METHOD.path)

    def leave() -> bool:
        call.grpc_ended_epoch_s = 1.0
        return True

    def serve() -> None:
        CURRENT.set(call)
        leaving(leave)
        work()

    with pytest.raises(CallCancelled):
        copy_context().run(serve)


def test_a_staged_write(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = users.participant.store.rows["users"]
    mark = rows.mark
    transaction_id = old_id(60)

    def leaving(leave: Callable[[], object]) -> None:
        monkeypatch.setattr(rows, "mark", lambda *arguments: leave() and mark(*arguments))

    served(lambda: users.stage(transaction_id, "ada"), leaving)
    assert users.branches() == 0
    users.create("ada")  # nothing holds it


@pytest.mark.parametrize("request_id", ["", new_id()], ids=["without request ID", "with request ID"])
def test_a_plain_write(users: Users, monkeypatch: pytest.MonkeyPatch, request_id: str) -> None:
    rows = users.participant.store.rows["users"]
    save = rows.save

    def leaving(leave: Callable[[], object]) -> None:
        monkeypatch.setattr(rows, "save", lambda *arguments, **named: leave() and save(*arguments, **named))

    user = User(user_id="ada", email="ada@example.com")
    request, reply = CreateUserRequest(request_id=request_id), CreateUserResponse(user=user)
    write = users.participant.write_plainly
    work = users.collection.changing("ada", lambda _: (user, reply))
    served(lambda: write("/s/m", request, work, CreateUserResponse), leaving)
    assert users.collection.get("ada") is None


def test_a_decision(accounts: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    register = DecisionStore(accounts, tables.coordinator)
    answers = ReplyStore(accounts, tables.coordinator.answers)
    coordinator = Coordinator(register, answers, DecisionNotifier(register, {}), KeyedLock(waiting=1), OwnedIds(b""))
    transaction_id = new_id()
    commit = Decision(transaction_id, Outcome.COMMITTED, {"users": 1})
    answer = StoredReply("m", new_id(), b"", transaction_id, reply=b"reply")
    insert = register.insert

    def leaving(leave: Callable[[], object]) -> None:
        monkeypatch.setattr(register, "insert", lambda *arguments: leave() and insert(*arguments))

    served(lambda: coordinator._decide(commit, answer), leaving)
    # What needs no second statement commits by itself, so there is no moment between the two.
    alone = replace(answer, request_id="")
    served(lambda: coordinator._decide(commit, alone), lambda leave: [leave()].clear())
    assert register.find([transaction_id])[0] == {}
    assert answers.find("m", answer.request_id) is None
