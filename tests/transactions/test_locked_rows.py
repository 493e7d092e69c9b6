"""Rows that somebody outside keeps locked, in PostgreSQL: an operator's session that was left open, or a job."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.participant.service import ParticipantServicer
from handfast.server.users.tables import users as table
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.databases.postgresql import PostgreSQL
from tests.transactions.participants import Users, old_id

IDS = [old_id(60), old_id(55), old_id(50)]


@pytest.fixture
def users(server: PostgreSQL) -> Iterator[Users]:
    """Three users that were committed and are not applied yet; the first of them is locked."""
    url = server.emptied()
    users = Users(sa.make_url(url).update_query_dict({"options": "-c lock_timeout=50"}).render_as_string(False))
    users.create("user-0")
    for number, id_ in enumerate(IDS):
        users.stage(id_, f"user-{number}")
        users.coordinator.decisions[id_] = Decision(id_, Outcome.COMMITTED, {"users": 1})
    engine = sa.create_engine(sa.make_url(url))
    with engine.connect() as outside:
        outside.execute(sa.select(table.c.user_id).where(table.c.user_id == "user-0").with_for_update())
        yield users
    engine.dispose()
    users.database.close()


def unfinished(users: Users) -> list[str]:
    with users.database.read() as connection:
        branches = users.participant.store.branches.unfinished(connection, "", 10)
    return [branch.transaction_id for branch in branches]


def test_hold_up_no_other_that_is_swept(users: Users) -> None:
    users.participant.sweeper.sweep()
    assert unfinished(users) == IDS[:1]


def test_hold_up_no_other_that_the_coordinator_tells_of(users: Users) -> None:
    decisions = [
        pb.Decision(transaction_id=id_, state=pb.TRANSACTION_STATE_COMMITTED, operation_count=1) for id_ in IDS
    ]
    context: Any = SimpleNamespace(time_remaining=lambda: 60.0)
    servicer = ParticipantServicer(users.participant)
    results = servicer.FinishTransactions(pb.FinishTransactionsRequest(decisions=decisions), context).results
    assert [(each.transaction_id, each.result) for each in results] == [
        (id_, pb.FINISH_RESULT_CONFIRMED) for id_ in IDS[1:]
    ]
    assert unfinished(users) == IDS[:1]
