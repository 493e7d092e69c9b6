"""Brings a service's database to the schema that its code expects, by Alembic.

A service keeps `migrations/` beside its code, with the usual `env.py` and `versions/`. Its `env.py` is one call of
`run`. A revision may say from which revision on code may run on the schema that it makes:

    oldest_code = "0003"  # the columns that it adds have defaults

Where it says nothing, code of earlier revisions may not: it neither starts nor stays ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from handfast.server.chassis.data import schema as stored
from handfast.server.chassis.data.backend import DatabaseError, one_line
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.server import StartError
from handfast.server.process.settings import DatabaseSettings

if TYPE_CHECKING:
    from alembic.config import Config

BESIDE_CALLS = 12
"""Connections beyond one for each thread that serves calls: for pools of their own, background work and metrics."""
MIGRATION_LOCK = 0x48414E44  # any number that all replicas agree on


def open_database(settings: DatabaseSettings, schema: Schema) -> Database:
    """The server's database, checked and upgraded. Raises StartError."""
    try:
        database = Database(
            settings.database_url,
            connections=settings.threads + BESIDE_CALLS,
            must_exist=settings.database_must_exist,
        )
        database.check()
        upgrade(database, schema, must_exist=settings.database_must_exist)
    except DatabaseError as error:
        raise StartError(str(error)) from error
    except DBAPIError as error:
        raise StartError(f"cannot upgrade {database.name}: {one_line(error.orig)}") from error
    return database


def upgrade(database: Database, schema: Schema, *, must_exist: bool = False) -> None:
    """Upgrades to the newest revision, and leaves a schema that is newer still as it is. Replicas that start together
    wait for each other. Raises DatabaseError where the database is another server's, where this code may not run on it,
    or where it is empty though it must exist.
    """
    from alembic import command
    from alembic.util import CommandError

    config, code = _config(schema), _Code.of(schema)
    with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another replica may take its time
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        try:
            if must_exist and stored.is_new(connection, schema):
                raise DatabaseError("it is empty, and it must exist: was it replaced?")
            if stored.is_marked(connection, schema):
                version, oldest_code = connection.execute(schema.version()).one()
                if version not in code.known:
                    code.check(version, oldest_code)
                    return
            config.attributes.update(connection=connection, schema=schema)
            command.upgrade(config, "head")
            stored.mark(connection, schema, code.oldest)
        except (DatabaseError, CommandError) as error:
            raise DatabaseError(f"cannot use {database.name}: {error}") from error


def database_check(database: Database, schema: Schema) -> Check:
    """For a server's readiness. The database must answer, and take writes again after one has failed; a file of SQLite
    must still be there. Its schema must not be behind what the code expects, as that of a restored backup may be, and
    this code may run on it, where a newer replica has upgraded it.
    """
    code = _Code.of(schema)

    def check() -> None:
        try:
            version, oldest_code = database.probe(schema.version())
            code.check(version, oldest_code)
            if database.writing_failed:
                stored.try_writing(database)
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseError(f"{database.name} does not work: {one_line(cause)}") from error
        except DatabaseError as error:
            raise DatabaseError(f"cannot use {database.name}: {error}") from error

    return check


def run(metadata: sa.MetaData) -> None:
    """What a service's `migrations/env.py` calls: on the connection that `upgrade` holds, in its transaction."""
    from alembic import context

    connection: sa.Connection = context.config.attributes["connection"]
    schema: Schema = context.config.attributes["schema"]
    found = stored.tables(connection)
    stored.take_over_version(connection, schema, set(metadata.tables))
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=schema.version_table,
        version_table_schema=stored.namespace(connection),
    )
    try:
        context.run_migrations()
    except DBAPIError as error:
        # Servers have tables of the same names, so what was taken for this one's may be another's.
        if found and schema.version_table not in found:
            raise _lacks(set(metadata.tables) - found) from error
        raise
    if missing := set(metadata.tables) - stored.tables(connection):
        raise _lacks(missing)


def _lacks(missing: set[str]) -> DatabaseError:
    return DatabaseError(f"it lacks the tables {', '.join(sorted(missing))}; whose is it?")


@dataclass(frozen=True, slots=True)
class _Code:
    """What this code knows of its schema: the newest revision, all of them, and the oldest whose code may run on what
    the newest makes."""

    head: str
    known: frozenset[str]
    oldest: str

    @classmethod
    def of(cls, schema: Schema) -> _Code:
        from alembic.script import ScriptDirectory

        revisions = list(ScriptDirectory.from_config(_config(schema)).walk_revisions())  # the newest first
        head = revisions[0].revision
        oldest = getattr(revisions[0].module, "oldest_code", head)
        return cls(head, frozenset(each.revision for each in revisions), oldest)

    def check(self, version: str, oldest_code: str) -> None:
        """Raises DatabaseError unless this code may run on a schema of that version."""
        if version != self.head and version in self.known:
            raise DatabaseError(f"its schema is {version}, and {self.head} is needed")
        if oldest_code not in self.known:
            raise DatabaseError(
                f"its schema is {version}, which needs code of revision {oldest_code} or later; this is {self.head}"
            )


def _config(schema: Schema) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", schema.migrations)
    config.set_main_option("path_separator", "os")
    return config
