"""Whether two emails are the same follows another rule: a letter no longer counts as several (`ß` was `ss`), and a
domain counts as IDNA 2008 has it. The claims are made anew where the rules differ.

Two users may turn out to have one email. The older keeps it, and both are named in the log. The other stays as it is,
email included, but look-ups by the email find the older. Once an update gives it another email, that one is its own.

Transactions may be open. What they make of claims is computed anew from the emails that they have staged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import idna
import sqlalchemy as sa
import structlog
from alembic import op

from handfast.users.v1.users_pb2 import User

revision = "0003"
down_revision = "0002"

BATCH = 1000

Rule = Callable[[str], str]

_log = structlog.get_logger()

users = sa.table("users", *map(sa.column, ("user_id", "email", "present", "create_time")))
claims = sa.table("claims", *map(sa.column, ("value", "holder", "pending_transaction_id")))
claim_changes = sa.table("claim_changes", *map(sa.column, ("transaction_id", "value", "number", "holder")))
operations = sa.table("operations", *map(sa.column, ("transaction_id", "number", "resource", "image")))


def upgrade() -> None:
    _claim_anew(old=_by_casefold, new=_by_idna)


def downgrade() -> None:
    _claim_anew(old=_by_idna, new=_by_casefold)


def _by_casefold(email: str) -> str:
    return "email:" + unicodedata.normalize("NFC", email.casefold())


def _by_idna(email: str) -> str:
    local, _, domain = email.rpartition("@")
    folded = "".join(map(_folded, unicodedata.normalize("NFC", local)))
    return f"email:{unicodedata.normalize('NFC', folded)}@{_ascii(domain)}"


def _folded(letter: str) -> str:
    return next((folded for folded in (letter.casefold(), letter.lower()) if len(folded) == 1), letter)


def _ascii(domain: str) -> str:
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        return domain.lower()


def _claim_anew(old: Rule, new: Rule) -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE users IN EXCLUSIVE MODE")  # which whoever writes locks rows of first
    pending = claims.c.pending_transaction_id.is_not(None)
    connection.execute(sa.update(claims).where(pending).values(pending_transaction_id=None))
    connection.execute(sa.delete(claims).where(claims.c.holder.is_(None)))
    connection.execute(sa.delete(claim_changes))
    for user in _users(connection):
        if old(user.email) != new(user.email):
            held = claims.c.value == old(user.email), claims.c.holder == user.user_id
            connection.execute(sa.delete(claims).where(*held))
    without: list[tuple[str, str]] = []
    for user in _users(connection):  # once more, so that no claim is in the way that goes
        if old(user.email) != new(user.email):
            without += _give(connection, new(user.email), user)
    for user_id, value in without:
        _log.warning("two users have one email; the older keeps it", user_id=user_id, holder=_holder(connection, value))
    staged = sa.select(operations.c.transaction_id).distinct().order_by(operations.c.transaction_id)
    for transaction_id in connection.execute(staged).scalars().all():  # of those that are open, the oldest first
        _note_changes(connection, transaction_id, new)


def _users(connection: sa.Connection) -> Iterator[Any]:
    """All users, in the order of their ids."""
    after = ""
    query = sa.select(users).where(users.c.present, users.c.user_id > sa.bindparam("after"))
    while batch := connection.execute(query.order_by(users.c.user_id).limit(BATCH), {"after": after}).all():
        yield from batch
        after = batch[-1].user_id


def _give(connection: sa.Connection, value: str, user: Any) -> list[tuple[str, str]]:
    """Gives the value to the user, unless one who is older has it. Returns who does not get it or loses it, if anybody,
    with the value.
    """
    holder_id = _holder(connection, value)
    if holder_id is None:
        connection.execute(sa.insert(claims), {"value": value, "holder": user.user_id})
        return []
    holder = connection.execute(sa.select(users).where(users.c.user_id == holder_id)).one()
    older, younger = sorted((holder, user), key=lambda each: (each.create_time, each.user_id))
    connection.execute(sa.update(claims).where(claims.c.value == value), {"holder": older.user_id})
    return [(younger.user_id, value)]


def _holder(connection: sa.Connection, value: str) -> str | None:
    holder: str | None = connection.execute(sa.select(claims.c.holder).where(claims.c.value == value)).scalar()
    return holder


def _note_changes(connection: sa.Connection, transaction_id: str, rule: Rule) -> None:
    """Notes what each operation makes of the values that it takes or frees, as a staged call does by the new rule; but
    one that this rule would refuse was admitted, and leaves the value to who has it.
    """
    claimed: dict[str, str | None] = {}  # by each user, in the eyes of the transaction
    staged = sa.select(operations).where(operations.c.transaction_id == transaction_id).order_by(operations.c.number)
    for operation in connection.execute(staged).all():
        user_id = operation.resource
        if user_id not in claimed:
            query = sa.select(users.c.email).where(users.c.user_id == user_id, users.c.present)
            email = connection.execute(query).scalar()
            claimed[user_id] = None if email is None else rule(email)
        before = claimed[user_id]
        image = operation.image
        after = claimed[user_id] = None if image is None else rule(User.FromString(image).email)
        for value in () if before == after else [claim for claim in (before, after) if claim is not None]:
            takes = value == after
            holder, pending = _holder_and_pending(connection, value, transaction_id)
            may_change = holder in (None, user_id) if takes else holder == user_id
            if may_change and pending in (None, transaction_id):
                change = {"number": operation.number, "value": value, "holder": user_id if takes else None}
                connection.execute(sa.insert(claim_changes), {"transaction_id": transaction_id, **change})
                mark = {"pending_transaction_id": transaction_id}
                if connection.execute(sa.update(claims).where(claims.c.value == value), mark).rowcount == 0:
                    connection.execute(sa.insert(claims), {"value": value, **mark})
            elif takes:
                _log.warning(
                    "two users will have one email if a transaction commits; the other keeps it",
                    user_id=user_id,
                    transaction_id=transaction_id,
                    holder=holder,
                    other_transaction_id=pending,
                )


def _holder_and_pending(connection: sa.Connection, value: str, transaction_id: str) -> tuple[str | None, str | None]:
    """Who holds the value, in the eyes of the transaction, and which one has a pending change of that."""
    row = connection.execute(sa.select(claims).where(claims.c.value == value)).one_or_none()
    if row is None:
        return None, None
    holder = row.holder
    if row.pending_transaction_id == transaction_id:
        changes = claim_changes.c
        own = sa.select(changes.holder).where(changes.transaction_id == transaction_id, changes.value == value)
        holder = connection.execute(own.order_by(changes.number.desc()).limit(1)).scalar_one()
    return holder, row.pending_transaction_id
