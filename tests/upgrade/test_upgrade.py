"""The last version and this one serve side by side, on the schema of either: no call fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.accounts.v1 import accounts_pb2
from handfast.preferences.v1 import preferences_pb2
from handfast.transactions.v1 import transactions_pb2
from handfast.users.v1 import users_pb2
from tests.databases.postgresql import postgresql
from tests.upgrade.last_version import NoHistory, last_version
from tests.upgrade.rolling import roll

CONTRACTS = (users_pb2, preferences_pb2, accounts_pb2, transactions_pb2)
WITH_AUTHENTICATION = {"GetOwnerKeys"}


METHODS = {
    f"{service.full_name}/{method.name}"
    for contract in CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name not in WITH_AUTHENTICATION
}


@pytest.mark.timeout(300)  # it starts twelve servers and clients, one after the other on a busy machine
def test_no_call_fails_while_the_last_version_and_this_one_serve_side_by_side_forth_and_back(tmp_path: Path) -> None:
    try:
        with postgresql() as database:
            seen = roll(last_version(), tmp_path, database, rounds=1)
    except NoHistory as error:
        pytest.skip(str(error))
    assert seen.failures == {}
    assert seen.counted == seen.increments > 0
    assert seen.unfinished == 0  # though each version began what the other one had to finish
    for version in ("last", "this"):
        assert {method for each, method, _ in seen.calls if each == version} >= METHODS
    forth, *back = seen.migrated
    assert all("taken back" in line or "stays as it is" in line for line in back)
    assert forth.count("upgraded from") == sum("taken back" in line for line in back)
