"""Whose a database is, which version its schema has, and which code may run on it.

A database belongs to one server; on PostgreSQL a schema is enough. Two tables say so: `handfast_schema`, whose one row
names the owner, and Alembic's table of the version, whose name ends in the owner's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from operator import methodcaller

import sqlalchemy as sa

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import small

MARK = sa.Table(
    "handfast_schema",
    sa.MetaData(),
    sa.Column("owner", sa.String(63), primary_key=True),
    sa.Column("oldest_code", sa.String(32), nullable=False),  # the oldest revision whose code may run on the schema
    sa.Column("room", sa.LargeBinary),  # for `try_writing`
    info=small(),
)
ROOM = 64 * 1024
"""Bytes that `try_writing` writes."""
_SHARED_VERSION_TABLE = "alembic_version"
"""What servers had before each got a table of its own."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a server expects of its database.

    `owner` is the name of the server, and `migrations` says where its migrations are, as `package:folder`:
    `Schema("users", "handfast.server.users:migrations")`.
    """

    owner: str
    migrations: str

    @property
    def migrate_command(self) -> str:
        """What an operator runs."""
        of_the_suite = self.migrations == f"handfast.server.{self.owner}:migrations"
        return f"handfast migrate {self.owner}{'' if of_the_suite else f'={self.migrations}'}"

    @property
    def version_table(self) -> str:
        return f"{_SHARED_VERSION_TABLE}_{self.owner}"

    def version(self) -> sa.Select[str, str]:
        """Selects the version of the schema, and the oldest revision whose code may run on it."""
        version = sa.table(self.version_table, sa.column("version_num", sa.String))
        return sa.select(version.c.version_num, sa.select(MARK.c.oldest_code).scalar_subquery())


def namespace(connection: sa.Connection) -> str | None:
    """The schema of PostgreSQL in which tables are made, which is the first of the search_path that exists and that the
    role may use; None on SQLite. Raises DatabaseError where there is none."""
    if connection.dialect.name != "postgresql":
        return None
    name: str | None = connection.execute(sa.select(sa.func.current_schema())).scalar_one()
    if name is None:
        path, role = connection.exec_driver_sql("SELECT current_setting('search_path'), current_user").one()
        raise DatabaseError(f"the search_path is {path}, and has no schema that the role {role} may use")
    return name


def tables(connection: sa.Connection) -> set[str]:
    """The names of those that are in the namespace."""
    return set(sa.inspect(connection).get_table_names(schema=namespace(connection)))


def is_marked(connection: sa.Connection, schema: Schema) -> bool:
    """Whether the database is the owner's; else it is nobody's yet. Raises DatabaseError where it is another's."""
    owner = None
    if MARK.name in tables(connection):
        owner = connection.execute(sa.select(MARK.c.owner)).scalar_one_or_none()
    if owner not in (None, schema.owner):
        raise DatabaseError(f"it holds the data of {owner}, and {schema.owner} needs a database or a schema of its own")
    return owner is not None


def mark(connection: sa.Connection, schema: Schema, oldest_code: str) -> None:
    """Notes the owner, and which code may run on the schema from now on."""
    if MARK.name not in tables(connection):
        MARK.create(connection, checkfirst=False)
    connection.execute(sa.delete(MARK))
    connection.execute(sa.insert(MARK), {"owner": schema.owner, "oldest_code": oldest_code})


def is_new(connection: sa.Connection, schema: Schema) -> bool:
    """Whether no server has used it yet."""
    return tables(connection).isdisjoint({MARK.name, _SHARED_VERSION_TABLE, schema.version_table})


def try_writing(database: Database) -> None:
    """Writes as much as a large change may need, and removes it again. Raises what `Database.write` does. Where it
    would wait for a standby, it does nothing, or raises DatabaseError as `check_commits` does."""
    if not database.check_commits():
        return
    for room in (os.urandom(ROOM), None):
        database.write(methodcaller("execute", sa.update(MARK).values(room=room)))
    database.writing_failed = False


def check_names(connection: sa.Connection, schema: Schema, expected: set[str]) -> None:
    """Raises DatabaseError where there are tables that the server is to make, and they are another's."""
    found = tables(connection)
    if (taken := expected & found) and found.isdisjoint({_SHARED_VERSION_TABLE, schema.version_table}):
        raise DatabaseError(f"it has tables of the names {', '.join(sorted(taken))}, which are not {schema.owner}'s")


def take_over_version(connection: sa.Connection, schema: Schema, expected: set[str]) -> None:
    """Gives the version that was noted in a table for all servers to this one, whose tables, the `expected` ones, are
    there."""
    found = tables(connection)
    if _SHARED_VERSION_TABLE in found and schema.version_table not in found and expected & found:
        connection.exec_driver_sql(f'ALTER TABLE {_SHARED_VERSION_TABLE} RENAME TO "{schema.version_table}"')
