"""Migration steps for the tables of a participant, called by the migrations of each service. A step never changes
once released.

A new service calls `create_tables` once, and `create_resource_table` for each table of resources. The other steps bring
services along that had their tables before; one whose work is done already, since the tables were created in a newer
form, does nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.transactions import horizon

UNFINISHED = sa.text("state <> 'FINISHED'")
PENDING = sa.text("pending_transaction_id IS NOT NULL")
IS_LOCK, IS_LOCK_ON_POSTGRESQL = sa.text("is_lock = 1"), sa.text("is_lock")


def missing(connection: sa.Connection, tables: Iterable[sa.Table], kinds: Collection[str]) -> str | None:
    """What the migrations of a service have not done yet, of its library `tables` and its tables of resources, whose
    names are the `kinds`; None where the tables have all the columns that the library needs.
    """
    inspector = sa.inspect(connection)
    for table in tables:
        columns = inspector.get_columns(table.name) if inspector.has_table(table.name) else ()
        found = {column["name"] for column in columns}
        of_resources = table.name in kinds
        needed = [column.name for column in (resource_columns() if of_resources else table.columns)]
        if lacking := [name for name in needed if name not in found]:
            has_none = of_resources and len(lacking) == len(needed)
            of_requests = table.name == "requests"
            step = "create_resource_table" if has_none else "add_erasure" if of_requests else "add_read_locks"
            return (
                f"its table {table.name} lacks {', '.join(lacking)}: add a migration that calls {step}, "
                "of handfast.server.transactions.migrations"
            )
    return None


def create_tables() -> None:
    """All tables of a participant."""
    _create_branches(sa.Column("owner", sa.String(64), nullable=False, server_default=""))
    horizon.create_table()
    _create_operations()
    _create_claims(128)
    _create_claim_changes(128)
    _create_requests()
    add_erasure()


def resource_columns() -> tuple[sa.Column[object], ...]:
    """What a table of resources has after its own columns."""
    return (*first_resource_columns(), *_columns_of_read_locks())


def create_resource_table(name: str, *columns: sa.Column[Any]) -> None:
    """A table of resources: its own `columns`, one of them the key, and what the library needs."""
    op.create_table(name, *columns, *resource_columns())
    create_pending_index(name)


def create_pending_index(table: str) -> None:
    """Finds the pending changes of a table of resources."""
    op.create_index(
        f"{table}_pending", table, ["pending_transaction_id"], sqlite_where=PENDING, postgresql_where=PENDING
    )


def create_first_tables() -> None:
    """As they were before `add_claim_changes`."""
    _create_branches()
    horizon.create_table()
    _create_first_operations()
    _create_claims(64)
    _create_requests()


def first_resource_columns() -> tuple[sa.Column[object], ...]:
    """As they were before `add_read_locks`."""
    return (
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("pending_transaction_id", sa.String(36)),
        sa.Column("last_transaction_id", sa.String(36), nullable=False),
    )


def add_claim_changes() -> None:
    """Notes what each operation makes of unique values, and finds the operations of a resource by an index."""
    _create_claim_changes(64)
    _add_size_and_index_of_operations()


def drop_claim_changes() -> None:
    op.drop_column("operations", "bytes_so_far")
    op.drop_index("operations_of_resource", "operations")
    op.drop_table("claim_changes")


def add_read_locks(table: str) -> None:
    """Lets an operation change and lock several resources, of several kinds. `table` has those of the one kind that the
    service has had so far, and is what the kind is called.
    """
    if "kind" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("operations")}:
        return
    op.add_column("branches", sa.Column("owner", sa.String(64), nullable=False, server_default=""))
    for column in _columns_of_read_locks():
        op.add_column(table, column)
    _set_holder_length(128)
    op.execute("CREATE TABLE operations_before AS SELECT * FROM operations")
    op.drop_table("operations")
    _create_operations()
    op.execute(
        "INSERT INTO operations (transaction_id, number, part, kind, resource, is_lock, image, fingerprint, reply,"
        " parts_so_far, bytes_so_far)"
        f" SELECT transaction_id, number, 1, '{table}', resource, false, image, fingerprint, reply,"
        " number, bytes_so_far FROM operations_before"
    )
    op.drop_table("operations_before")


def drop_read_locks(table: str) -> None:
    """Raises DatabaseError where a transaction is open that holds read locks, or changes several resources at once."""
    held = op.get_bind().execute(sa.text("SELECT count(*) FROM operations WHERE is_lock OR part > 1")).scalar_one()
    if held:
        raise DatabaseError(f"{held} parts of open transactions cannot be kept; finish these first")
    op.execute("CREATE TABLE operations_before AS SELECT * FROM operations")
    op.drop_table("operations")
    _create_first_operations()
    _add_size_and_index_of_operations()
    columns = "transaction_id, number, resource, fingerprint, image, reply, bytes_so_far"
    op.execute(f"INSERT INTO operations ({columns}) SELECT {columns} FROM operations_before")
    op.drop_table("operations_before")
    _set_holder_length(64)
    for column in reversed(_columns_of_read_locks()):
        op.drop_column(table, column.name)
    op.drop_column("branches", "owner")


def add_erasure() -> None:
    """Lets the replies of plain writes be erased with the resource that they are about. Those that are stored by then
    are not found by it: they go when their time is up, after 24 hours.
    """
    if "about" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("requests")}:
        return
    op.add_column("requests", sa.Column("about", sa.String(200)))
    op.add_column("requests", sa.Column("is_erased", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_requests_about", "requests", ["about"])


def drop_erasure() -> None:
    """A repeat of what was erased gets an empty reply from then on."""
    op.drop_index("ix_requests_about", "requests")
    op.drop_column("requests", "is_erased")
    op.drop_column("requests", "about")


def _columns_of_read_locks() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("revision", sa.String(16), nullable=False, server_default=""),
        sa.Column("read_locks", sa.Integer, nullable=False, server_default="0"),
    )


def _create_branches(*more: sa.Column[object]) -> None:
    op.create_table(
        "branches",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("first_attempt", sa.String(36), nullable=False),
        sa.Column("staged", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(9)),
        *more,
    )
    op.create_index(
        "branches_unfinished", "branches", ["transaction_id"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED
    )


def _create_first_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("image", sa.LargeBinary),
        sa.Column("reply", sa.LargeBinary, nullable=False),
    )


def _add_size_and_index_of_operations() -> None:
    op.create_index("operations_of_resource", "operations", ["transaction_id", "resource", "number"])
    op.add_column("operations", sa.Column("bytes_so_far", sa.Integer, nullable=False, server_default="0"))


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("resource", sa.String(128), nullable=False),
        sa.Column("is_lock", sa.Boolean, nullable=False),
        sa.Column("image", sa.LargeBinary),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("reply", sa.LargeBinary),
        sa.Column("reads", sa.LargeBinary),
        sa.Column("parts_so_far", sa.Integer),
        sa.Column("bytes_so_far", sa.Integer),
    )
    op.create_index("operations_of_resource", "operations", ["transaction_id", "kind", "resource", "number"])
    op.create_index(
        "operations_locks",
        "operations",
        ["kind", "resource", "transaction_id"],
        sqlite_where=IS_LOCK,
        postgresql_where=IS_LOCK_ON_POSTGRESQL,
    )


def _create_claims(holder_length: int) -> None:
    op.create_table(
        "claims",
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("holder", sa.String(holder_length)),
        sa.Column("pending_transaction_id", sa.String(36)),
    )
    create_pending_index("claims")


def _create_claim_changes(holder_length: int) -> None:
    op.create_table(
        "claim_changes",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("holder", sa.String(holder_length)),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("caller", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False, index=True),
    )


def _set_holder_length(length: int) -> None:
    """How long the keys of those who hold unique values may be."""
    op.drop_index("claims_pending", "claims")
    for table in ("claims", "claim_changes"):
        with op.batch_alter_table(table) as batch:  # SQLite makes the table anew
            batch.alter_column("holder", type_=sa.String(length))
    create_pending_index("claims")
