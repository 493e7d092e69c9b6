"""Brings a service's database to the schema that its code expects, by Alembic.

A service keeps `migrations/` beside its code, with the usual `env.py` and `versions/`. Its `env.py` is one call of
`run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from handfast.server.chassis.data.database import Database, DatabaseError, one_line
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.server import StartError
from handfast.server.process.settings import DatabaseSettings

if TYPE_CHECKING:
    from alembic.config import Config

BESIDE_CALLS = 12
"""Connections beyond one for each thread that serves calls: for pools of their own, background work and metrics."""
MIGRATION_LOCK = 0x48414E44  # any number that all replicas agree on


def open_database(settings: DatabaseSettings, location: str) -> Database:
    """The server's database, checked and upgraded. Raises StartError."""
    try:
        database = Database(settings.database_url, connections=settings.threads + BESIDE_CALLS)
        database.check()
        upgrade(database, location)
    except DatabaseError as error:
        raise StartError(str(error)) from error
    except DBAPIError as error:
        raise StartError(f"cannot upgrade {database.name}: {one_line(error.orig)}") from error
    return database


def upgrade(database: Database, location: str) -> None:
    """Upgrades to the newest revision. `location` is `package:folder`, such as `handfast.server.users:migrations`.
    Replicas that start together wait for each other.
    """
    from alembic import command

    config = _config(location)
    with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another replica may take its time
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_check(database: Database, location: str) -> Check:
    """For a server's readiness: that the database answers, and is not behind what the code expects, as one that was
    restored from a backup may be. A newer schema, by a newer replica, is none of its business.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(location))
    head = scripts.get_current_head()
    behind = {revision.revision for revision in scripts.walk_revisions()} - {head}
    current = sa.select(sa.table("alembic_version", sa.column("version_num", sa.String)).c.version_num)

    def check() -> None:
        try:
            found = database.probe(current)
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseError(f"{database.name} does not answer: {one_line(cause)}") from error
        if found in behind:
            raise DatabaseError(f"the schema of {database.name} is {found}, and {head} is needed")

    return check


def _config(location: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    return config


def run(metadata: sa.MetaData) -> None:
    """What a service's `migrations/env.py` calls: on the connection that `upgrade` holds, in its transaction."""
    from alembic import context

    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()
