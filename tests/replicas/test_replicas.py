"""Short forms of `make replicas`; docs/crashes.md has what is checked. What happens at a certain moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from handfast.accounts.v1.accounts_pb2 import GetAccountRequest, UpdateUserAndPreferencesRequest
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.chassis.crash_points import VARIABLE
from handfast.users.v1.users_pb2 import User
from tests.crashes.world import text
from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE
from tests.people import create_user
from tests.replicas.faults import LASTS
from tests.replicas.run import several, upset
from tests.replicas.servers import Replicas


@pytest.fixture(scope="module")
def replicas(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two of each server, which every test leaves ready."""
    with several(2, tmp_path_factory.mktemp("replicas"), server) as replicas:
        yield replicas


@pytest.mark.timeout(300)
def test_callers_of_replicas_that_are_restarted_killed_paused_and_cut_off_see_nothing_wrong(replicas: Replicas) -> None:
    faults = {fault: min(lasts, 3.0) for fault, lasts in LASTS.items()}
    report = upset(replicas, faults, rounds=1, clients=3, seed="replicas", quiet=0.5)
    print(report)
    assert not report.violations
    assert not report.unexpected
    assert not report.stuck(PATIENCE)
    assert report.acknowledged > 0


def test_an_account_call_whose_server_dies_when_it_has_decided_is_answered_by_another_replica(
    replicas: Replicas,
) -> None:
    victim = replicas.of["accounts"][0]
    victim.stop()
    victim.start({VARIABLE: "coordinator.decided"})
    victim.wait_until_ready()
    with replicas.connect() as client:
        user = create_user(client)
        for number in itertools.count(1):
            request = UpdateUserAndPreferencesRequest(
                user=User(user_id=user.user_id, labels={"count": str(number)}),
                preferences=Preferences(values={"theme": text("dark")}),
            )
            client.accounts.UpdateUserAndPreferences(request)
            if not victim.is_running():
                break
        account = client.accounts.GetAccount(GetAccountRequest(user_id=user.user_id)).account
    assert account.user.labels["count"] == str(number)
    victim.start()
    victim.wait_until_ready()
