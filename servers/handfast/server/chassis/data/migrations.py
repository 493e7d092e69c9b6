"""Brings a service's database to the schema that its code expects, by Alembic.

A service keeps `migrations/` beside its code, with the usual `env.py` and `versions/`. Its `env.py` is one call of
`run`. `revisions.py` says what a revision declares.

Calls go on meanwhile. So each revision is a transaction of its own, or as many as it likes (`steps.py`), and gives up
its turn for a lock that it does not get at once: whoever waits for a lock on a table holds up all that come after
(https://www.postgresql.org/docs/current/explicit-locking.html).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from handfast.server.chassis.data import schema as stored
from handfast.server.chassis.data.backend import DatabaseError, one_line
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.revisions import Plan, Revisions, config_of
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.data.steps import LOCK_TIMEOUT, patiently, run_apart
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.start_errors import StartError
from handfast.server.process.settings import DatabaseSettings

if TYPE_CHECKING:
    from alembic.config import Config

BESIDE_CALLS = 12
"""Connections beyond one for each thread that serves calls: for pools of their own, background work and metrics."""
MIGRATION_LOCK = 0x48414E44  # any number that all replicas agree on


def open_database(settings: DatabaseSettings, schema: Schema) -> Database:
    """The server's database, checked, and with `settings.migrate` upgraded first. Raises StartError."""
    must_exist = settings.database_must_exist
    database_class: type[Database] = Database
    if settings.tracing:
        from handfast.server.chassis.tracing.database import TracedDatabase

        database_class = TracedDatabase
    try:
        database = database_class(
            settings.database_url,
            connections=settings.threads + BESIDE_CALLS,
            must_exist=must_exist or not settings.migrate,
            must_replicate=settings.database_must_replicate,
        )
        if not must_exist and not settings.migrate and not database.backend.is_there():
            raise DatabaseError(f"cannot use {database.name}: {_not_set_up(schema)}")
        database.check()
        if settings.migrate:
            upgrade(database, schema, must_exist=must_exist)
        else:
            _check(database, schema, must_exist)
    except DatabaseError as error:
        raise StartError(str(error)) from error
    return database


def upgrade(database: Database, schema: Schema, *, must_exist: bool = False) -> None:
    """Upgrades to the newest revision, and leaves a schema that is newer still as it is. Raises what `migrate` does."""
    migrate(database, schema, must_exist=must_exist)


def migrate(database: Database, schema: Schema, to: str | None = None, *, must_exist: bool = False) -> Plan:
    """Upgrades or downgrades to a revision, by default to the newest, and returns what it did. A schema that is newer
    than this code knows stays as it is. What is done stays done where a later revision fails. Of several processes that
    do this at once, one works and the others wait.

    Raises DatabaseError where the database is another server's, where this code may not run on it, where it is empty
    though it must exist, where a revision fails, where others keep its tables locked, or where another process migrates
    a file of SQLite elsewhere.
    """
    revisions = Revisions.of(schema)
    done: Plan | None = None
    left: int | None = None
    with _in_words(database), _alone(database):
        while True:
            rest = patiently(partial(_go_on, database, schema, revisions, to, must_exist))
            done = done or rest
            if left is not None and len(rest.revisions) >= left:  # or the two would take turns for ever
                who = "somebody else migrates it at the same time, to another revision"
                raise DatabaseError(f"its schema is {rest.version} again: {who}")
            left = len(rest.revisions)
            if rest.works_in_steps():
                patiently(partial(run_apart, database, rest.revisions[0], back=rest.goes_back))
                patiently(partial(_note, database, schema, revisions, rest, must_exist))
            if rest.next() == rest.target:
                return done


def plan(database: Database, schema: Schema, to: str | None = None, *, must_exist: bool = False) -> Plan:
    """What `migrate` would do. Changes nothing, and takes no lock. Raises DatabaseError as it does."""
    revisions = Revisions.of(schema)
    with _in_words(database):
        if not must_exist and not database.backend.is_there():
            return revisions.plan(None, to)
        with database.read() as connection:
            version = _version(connection, schema, revisions, must_exist)
            if version is None:
                _check_names(connection, schema)
            return revisions.plan(version, to)


def database_check(database: Database, schema: Schema) -> Check:
    """For a server's readiness. The database must answer, and take writes again after one has failed; a file of SQLite
    must still be there. Its schema must not be behind what the code expects, as that of a restored backup may be, and
    this code may run on it, where a newer replica has upgraded it.
    """
    revisions = Revisions.of(schema)

    def check() -> None:
        try:
            version, oldest_code = database.probe(schema.version())
            _check_not_behind(schema, version, revisions)
            revisions.check(version, oldest_code)
            if database.writing_failed:
                stored.try_writing(database)
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseError(f"{database.name} does not work: {one_line(cause)}") from error
        except DatabaseError as error:
            raise DatabaseError(f"cannot use {database.name}: {error}") from error

    return check


def run(metadata: sa.MetaData) -> None:
    """What a service's `migrations/env.py` calls: on the connection that `migrate` holds, in its transaction."""
    from alembic import context

    connection: sa.Connection = context.config.attributes["connection"]
    schema: Schema = context.config.attributes["schema"]
    stored.check_names(connection, schema, set(metadata.tables))
    if context.config.attributes.get("only_checks"):
        return
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
    if context.config.attributes["is_newest"] and (missing := set(metadata.tables) - stored.tables(connection)):
        raise _lacks(missing)


def _check_names(connection: sa.Connection, schema: Schema) -> None:
    """Raises DatabaseError where `run` does so at once. The service's `env.py` has the names of its tables."""
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = config_of(schema)
    config.attributes.update(connection=connection, schema=schema, only_checks=True)
    scripts = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, scripts):
        scripts.run_env()


def _lacks(missing: set[str]) -> DatabaseError:
    return DatabaseError(f"it lacks the tables {', '.join(sorted(missing))}; whose is it?")


def _check(database: Database, schema: Schema, must_exist: bool) -> None:
    """Raises DatabaseError unless this code may run on it as it is."""
    revisions = Revisions.of(schema)
    with _in_words(database), database.read() as connection:
        version = _version(connection, schema, revisions, must_exist)
        if version is None:
            raise DatabaseError(_not_set_up(schema))
        _check_not_behind(schema, version, revisions)


def _check_not_behind(schema: Schema, version: str, revisions: Revisions) -> None:
    if version in revisions and version != revisions.head:
        how = f"run `{schema.migrate_command}`, or start with --migrate"
        raise DatabaseError(f"its schema is {version}, and {revisions.head} is needed: {how}")


def _not_set_up(schema: Schema) -> str:
    return f"it is not set up: run `{schema.migrate_command}`, or start with --migrate"


def _version(connection: sa.Connection, schema: Schema, revisions: Revisions, must_exist: bool) -> str | None:
    """None where nothing is set up. Raises DatabaseError where it is another server's, where it is newer than this
    code, which may not run on it, and where it is empty though it must exist."""
    if not stored.is_marked(connection, schema):
        if must_exist and stored.is_new(connection, schema):
            raise DatabaseError("it is empty, and it must exist: was it replaced?")
        return None
    noted = connection.execute(schema.version()).one_or_none()
    if noted is None:
        raise DatabaseError(f"its table {schema.version_table} is empty: was only a part of it restored?")
    version, oldest_code = noted
    revisions.check(version, oldest_code)
    return version


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """While this lasts, nobody else migrates PostgreSQL. On SQLite each transaction keeps others out by itself, and
    steps do no harm where several take them at once."""
    if database.dialect != "postgresql":
        yield
        return
    with database.engine.connect() as connection:
        # Who waited in a transaction would wait for an index to be built, and that would wait for its transaction.
        while not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(MIGRATION_LOCK))).scalar_one():
            connection.rollback()
            time.sleep(random.uniform(0.1, 0.3))
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


@contextmanager
def _transaction(database: Database) -> Iterator[sa.Connection]:
    with database.engine.connect() as connection:
        with connection.begin():
            if database.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            yield connection
        database.backend.check_committed(connection)


def _go_on(database: Database, schema: Schema, revisions: Revisions, to: str | None, must_exist: bool) -> Plan:
    """Does what comes next, but for steps. Returns what there was left to do."""
    from alembic import command

    with _transaction(database) as connection:
        version = _version(connection, schema, revisions, must_exist)
        rest = revisions.plan(version, to)
        if (version in revisions or version is None) and not rest.works_in_steps():
            change = command.downgrade if rest.goes_back else command.upgrade
            _run(connection, schema, rest.next(), revisions, change)
        return rest


def _note(database: Database, schema: Schema, revisions: Revisions, done: Plan, must_exist: bool) -> None:
    """Notes that a revision has taken its steps, unless another process that took them has done so."""
    from alembic import command

    with _transaction(database) as connection:
        if _version(connection, schema, revisions, must_exist) == done.version:
            _run(connection, schema, done.next(), revisions, command.stamp)


def _run(
    connection: sa.Connection, schema: Schema, to: str, revisions: Revisions, change: Callable[[Config, str], object]
) -> None:
    """Calls a command of Alembic's."""
    from alembic.util import CommandError

    config = config_of(schema)
    config.attributes.update(connection=connection, schema=schema, is_newest=to == revisions.head)
    try:
        change(config, to)
    except CommandError as error:
        raise DatabaseError(str(error)) from error
    stored.mark(connection, schema, revisions.oldest_code(to))


@contextmanager
def _in_words(database: Database) -> Iterator[None]:
    """Raises a DatabaseError that names the database for what goes wrong with it."""
    try:
        yield
    except DatabaseError as error:
        raise DatabaseError(f"cannot use {database.name}: {error}") from error
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise DatabaseError(f"cannot use {database.name}: {one_line(cause)}") from error
