"""Brings a service's database to the schema that its code expects, by Alembic.

A service keeps `migrations/` beside its code, with the usual `env.py` and `versions/`. Its `env.py` is one call of
`run`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.database import Database, DatabaseError, one_line
from handfast.server.chassis.server import StartError
from handfast.server.chassis.settings import ServerSettings

MIGRATION_LOCK = 0x48414E44  # any number that all replicas agree on


def open_database(settings: ServerSettings, location: str) -> Database:
    """The server's database, checked and upgraded. Raises StartError."""
    try:
        database = Database(settings.database_url, connections=settings.threads)
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
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another replica may take its time
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def run(metadata: sa.MetaData) -> None:
    """What a service's `migrations/env.py` calls: on the connection that `upgrade` holds, in its transaction."""
    from alembic import context

    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()
