"""What `make demo-credits` shows: credits are spent and a user is changed in one transaction, or neither is."""

from __future__ import annotations

from dataclasses import dataclass

import click
from credits.v1.credits_pb2 import GetBalanceRequest, GrantRequest, ListEntriesRequest, SpendRequest
from credits.v1.credits_pb2_grpc import CreditsServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import FailedPrecondition, Suite
from handfast.server.testing import suite_with
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User

ADA = "ada"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the two services say, each asked by itself."""

    display_name: str
    balance: int


def main() -> None:
    click.echo("Starting a suite of Handfast in a temporary folder, and credits as one more participant.")
    with suite_with(credits="credits") as suite:
        _begin(suite)
        _buy(suite)
        _buy_in_vain(suite)
        _list(suite)
    click.echo("\nDone: what spans services commits everywhere or nowhere, a service of your own included.")


def _begin(suite: Suite) -> None:
    _step("1. Ada gets a user, and 10 credits.")
    user = User(user_id=ADA, email="ada@example.com", display_name="Ada")
    suite.users.CreateUser(CreateUserRequest(user=user))
    suite.stub(CreditsServiceStub, "credits").Grant(GrantRequest(account_id=ADA, amount=10, note="welcome"))
    _show_seen(_look(suite))


def _buy(suite: Suite) -> None:
    _step("2. She buys a title for 4 credits: both services change, in one transaction.")
    before = _look(suite)
    with suite.transaction() as tx:
        tx.users.UpdateUser(_entitle("Countess of Lovelace"))
        tx.stub(CreditsServiceStub, "credits").Spend(SpendRequest(account_id=ADA, amount=4, note="a title"))
    after = _look(suite)
    _show("users", f"display name {before.display_name!r} -> {after.display_name!r}")
    _show("credits", f"balance {before.balance} -> {after.balance}")
    _show("transaction", f"{tx.id} {tx.outcome}")


def _buy_in_vain(suite: Suite) -> None:
    _step("3. She buys another one for 100 credits, and has too few.")
    try:
        with suite.transaction() as tx:
            tx.users.UpdateUser(_entitle("Queen of Numbers"))
            _show("users", "display name -> 'Queen of Numbers', staged")
            tx.stub(CreditsServiceStub, "credits").Spend(SpendRequest(account_id=ADA, amount=100, note="a throne"))
    except FailedPrecondition as error:
        _show("refused by", f"{error.service}, {error.status.name} {error.reason}")
        _show("", error.message)
    _show("transaction", f"{tx.id} {tx.outcome}")
    _show_seen(_look(suite), "is still ")


def _list(suite: Suite) -> None:
    _step("4. Credits has kept an entry for each change of the balance, and none for the one in vain.")
    for entry in suite.stub(CreditsServiceStub, "credits").ListEntries(ListEntriesRequest(account_id=ADA)).entries:
        _show(entry.entry_id, f"{entry.amount:+} -> {entry.balance}, {entry.note}")


def _entitle(display_name: str) -> UpdateUserRequest:
    user = User(user_id=ADA, display_name=display_name)
    return UpdateUserRequest(user=user, update_mask=FieldMask(paths=["display_name"]))


def _look(suite: Suite) -> Seen:
    user = suite.users.GetUser(GetUserRequest(user_id=ADA)).user
    credits = suite.stub(CreditsServiceStub, "credits")
    return Seen(user.display_name, credits.GetBalance(GetBalanceRequest(account_id=ADA)).balance)


def _show_seen(seen: Seen, still: str = "") -> None:
    _show("users", f"display name {still}{seen.display_name!r}")
    _show("credits", f"balance {still}{seen.balance}")


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)


def _show(what: str, text: str) -> None:
    click.echo(f"   {what:<17}{text}")


if __name__ == "__main__":
    main()
