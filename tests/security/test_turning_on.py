"""Authentication is turned on in steps while calls go on: what is begun before a step, and goes on after it.

There is a replica of each mode, as while a step is under way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import AlreadyExists, Suite, connect
from handfast.server.accounts import server as accounts
from handfast.server.chassis.ids import new_id
from handfast.server.cli.ports import free_first_port
from handfast.server.preferences import server as preferences
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions import wire
from handfast.server.users import server as users
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.people import new_email
from tests.security.enforced import ISSUER, OF_CALLERS, OF_SERVERS, Metadata, as_caller
from tests.security.issuer import bearer

KNOWN = as_caller("ada")
UNKNOWN = bearer(ISSUER.token("ada", OF_CALLERS, exp=int(time.time()) - 3600))
STRANGER = as_caller("eve")


class Caller(NamedTuple):
    """Somebody who calls the replica of a mode."""

    mode: str
    token: Metadata


ANONYMOUS = Caller("off", ())
OBSERVED, EXPIRED = Caller("observe", KNOWN), Caller("observe", UNKNOWN)
ENFORCED = Caller("enforce", KNOWN)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Suite]]:
    """A client without a token for each mode. All of them have the same preferences, and the accounts servers stage at
    those that observe."""
    folder = tmp_path_factory.mktemp("turning-on")
    first_port = free_first_port()
    addresses = {"users": f"127.0.0.1:{first_port}", "preferences": f"127.0.0.1:{first_port + 1}"}
    settings: dict[str, Any] = ISSUER.settings(folder) | {"peer_token": str(_suite_token(folder))}
    settings |= {f"{name}_address": address for name, address in addresses.items()}
    settings["accounts_address"] = f"127.0.0.1:{first_port + 2}"
    with contextlib.ExitStack() as stack:

        def start(module: Any, mode: str, listen: str = "127.0.0.1:0") -> str:
            name = module.__name__.split(".")[-2]
            given = settings | {"authentication": mode, "database_url": sqlite_url(folder / f"{name}.sqlite3")}
            given["migrate"] = True
            server = module.build(SuiteSettings(name=name, listen=listen, grace=0.5, **given))
            server.start()
            stack.callback(server.stop)
            return str(server.address)

        at_accounts = {
            "observe": start(accounts, "observe", settings["accounts_address"]),
            "off": start(accounts, "off"),
            "enforce": start(accounts, "enforce"),
        }
        at_users = {
            "observe": start(users, "observe", addresses["users"]),
            "off": start(users, "off"),
            "enforce": start(users, "enforce"),
        }
        at_preferences = start(preferences, "observe", addresses["preferences"])
        yield {
            mode: stack.enter_context(connect(at_users[mode], at_preferences, at_accounts[mode])) for mode in at_users
        }


def _suite_token(folder: Path) -> Path:
    token = folder / "suite.token"
    token.touch(mode=0o600)
    token.write_text(ISSUER.token("suite", OF_SERVERS))
    return token


def rename(user: User, name: str) -> UpdateUserRequest:
    request = UpdateUserRequest(user=User(user_id=user.user_id, display_name=name))
    request.update_mask.paths.append("display_name")
    return request


REPEATS = {
    "before the first step": (ANONYMOUS, ANONYMOUS),
    "across the first step": (ANONYMOUS, OBSERVED),
    "across the first step, with a bad token": (ANONYMOUS, EXPIRED),
    "across both steps": (ANONYMOUS, ENFORCED),
    "in the replica that has not taken the first step": (OBSERVED, ANONYMOUS),
    "between the steps": (OBSERVED, OBSERVED),
    "when the token has expired": (OBSERVED, EXPIRED),
    "with a new token": (EXPIRED, OBSERVED),
    "across the second step": (OBSERVED, ENFORCED),
    "across the second step, with a new token": (EXPIRED, ENFORCED),
    "in the replica that has not taken the second step": (ENFORCED, OBSERVED),
    "after the second step": (ENFORCED, ENFORCED),
}


@pytest.mark.parametrize("way", REPEATS)
class TestARepeat:
    def test_of_a_write_is_answered_as_the_first_call(self, replicas: Mapping[str, Suite], way: str) -> None:
        first, then = REPEATS[way]
        user = User(user_id=new_id(), email=new_email())
        replicas["off"].users.CreateUser(CreateUserRequest(user=user))
        request = rename(user, "Ada")
        request.request_id = new_id()
        updated = replicas[first.mode].users.UpdateUser(request, metadata=first.token)
        replicas["off"].users.UpdateUser(rename(user, "Grace"))
        assert replicas[then.mode].users.UpdateUser(request, metadata=then.token) == updated
        found = replicas["off"].users.GetUser(GetUserRequest(user_id=user.user_id)).user
        assert found.display_name == "Grace"  # as nothing was done anew

    def test_of_an_account_call_is_answered_as_the_first_call(self, replicas: Mapping[str, Suite], way: str) -> None:
        first, then = REPEATS[way]
        request = CreateAccountRequest(user=User(user_id=new_id(), email=new_email()), request_id=new_id())
        created = replicas[first.mode].accounts.CreateAccount(request, metadata=first.token)
        again = replicas[then.mode].accounts.CreateAccount(request, metadata=then.token)
        assert again.transaction_id == created.transaction_id
        method = "handfast.accounts.v1.AccountService/CreateAccount"
        ask = pb.GetTransactionRequest(request_id=request.request_id, method=method)
        found = replicas[then.mode].transactions.GetTransaction(ask, metadata=then.token).transaction
        assert found.transaction_id == created.transaction_id


def test_what_is_enforced_is_answered_to_its_caller_only(replicas: Mapping[str, Suite]) -> None:
    request = CreateUserRequest(user=User(user_id=new_id(), email=new_email()), request_id=new_id())
    replicas["enforce"].users.CreateUser(request, metadata=KNOWN)
    for mode, token in (("enforce", STRANGER), ("observe", STRANGER), ("observe", UNKNOWN), ("off", ())):
        with pytest.raises(AlreadyExists):
            replicas[mode].users.CreateUser(request, metadata=token)


TRANSACTIONS = {
    "whose token expires": (OBSERVED, EXPIRED),
    "whose caller gets a new token": (EXPIRED, OBSERVED),
    "that is begun before the first step": (ANONYMOUS, OBSERVED),
    "that is begun in the replica that has taken the first step": (OBSERVED, ANONYMOUS),
    "that is begun before the second step": (OBSERVED, ENFORCED),
    "that is begun in the replica that has taken the second step": (ENFORCED, OBSERVED),
}


@pytest.mark.parametrize("which", TRANSACTIONS)
def test_a_transaction_goes_on(replicas: Mapping[str, Suite], which: str) -> None:
    first, then = TRANSACTIONS[which]
    user = User(user_id=new_id(), email=new_email())
    begun = replicas[first.mode].transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=first.token)
    id_, deadline_us = begun.transaction.transaction_id, begun.transaction.deadline.ToMicroseconds()
    create = CreateUserRequest(user=user)
    replicas[first.mode].users.CreateUser(create, metadata=(*wire.stage_metadata(id_, 1, deadline_us), *first.token))
    metadata = (*wire.stage_metadata(id_, 2, deadline_us), *then.token)
    replicas[then.mode].users.UpdateUser(rename(user, "Ada"), metadata=metadata)
    branches = [pb.TransactionBranch(participant="users", operation_count=2)]
    commit = pb.CommitTransactionRequest(transaction_id=id_, branches=branches)
    committed = replicas[then.mode].transactions.CommitTransaction(commit, metadata=then.token).transaction
    assert committed.state == pb.TRANSACTION_STATE_COMMITTED
    found = replicas["off"].users.GetUser(GetUserRequest(user_id=user.user_id)).user
    assert found.display_name == "Ada"
