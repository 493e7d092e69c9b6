"""For tests of a service of one's own: a suite around it says what does not start and takes all away with it, and a
migration that is missing is found.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from credits import service, tables
from credits.v1.credits_pb2 import GetBalanceRequest, GrantRequest
from credits.v1.credits_pb2_grpc import CreditsServiceStub

from handfast.client import PermissionDenied
from handfast.server.process.command import Failure
from handfast.server.testing import schema_differences, secure_suite_with, suite_with
from handfast.users.v1.users_pb2 import CreateUserRequest, UpdateUserRequest, User
from tests.project.commands import ROOT


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples" / "credits"))
    return tmp_path


def test_a_server_that_does_not_start_is_told_with_what_it_wrote(temporary: Path) -> None:
    with pytest.raises(Failure, match=r"(?s)^nowhere\.server did not start:.*No module named 'nowhere'"):
        suite_with(nowhere="nowhere.server").__enter__()
    assert list(temporary.iterdir()) == []


def test_all_ends_with_the_block_however_that_ends(temporary: Path) -> None:
    def interrupted() -> None:
        with suite_with(credits="credits") as suite:
            credits = suite.stub(CreditsServiceStub, "credits")
            assert credits.GetBalance(GetBalanceRequest(account_id="ada")).balance == 0
            assert len(list(temporary.iterdir())) == 2
            raise KeyboardInterrupt

    before = _children()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(temporary.iterdir()) == []
    assert _children() == before


def test_a_service_of_one_s_own_asks_for_what_its_contract_declares(temporary: Path) -> None:
    with secure_suite_with(credits="credits") as connect_as:
        clerk = connect_as("clerk", "credits.read", "credits.write", "transactions.run", "users.read", "users.write")
        clerk.users.CreateUser(CreateUserRequest(user=User(user_id="ada", email="ada@example.com")))
        with clerk.transaction() as tx:
            tx.users.UpdateUser(UpdateUserRequest(user=User(user_id="ada", display_name="Ada")))
            tx.stub(CreditsServiceStub, "credits").Grant(GrantRequest(account_id="ada", amount=10))
        credits = connect_as("reader", "credits.read").stub(CreditsServiceStub, "credits")
        assert credits.GetBalance(GetBalanceRequest(account_id="ada")).balance == 10
        with pytest.raises(PermissionDenied) as refused:
            credits.Grant(GrantRequest(account_id="ada", amount=10))
        assert refused.value.metadata["scopes"] == "credits.write"
    assert list(temporary.iterdir()) == []


def test_a_migration_that_is_missing_is_told() -> None:
    metadata = sa.MetaData()
    for table in tables.metadata.tables.values():
        table.to_metadata(metadata)
    assert schema_differences(service.SCHEMA, metadata) == []
    metadata.tables["accounts"].append_column(sa.Column("colour", sa.String(9), nullable=False))
    ((change, _, table, column),) = schema_differences(service.SCHEMA, metadata)
    assert (change, table, column.name) == ("add_column", "accounts", "colour")


def _children() -> str:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
