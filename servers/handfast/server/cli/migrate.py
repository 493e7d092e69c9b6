"""`handfast migrate`: sets databases up and upgrades them, apart from serving."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import click

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import migrate, plan
from handfast.server.chassis.data.revisions import Plan
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.logs import log
from handfast.server.cli.settings import SERVERS, on_this_machine, read_of_server
from handfast.server.process.command import Failure
from handfast.server.process.flags import made, settings_of
from handfast.server.process.secrets import OTHERS
from handfast.server.suite import NAME, SuiteSettings

DATABASE = ("database_url", "database_must_exist", "database_must_replicate")
"""The settings of a server that say which database it has, and what is expected of it."""


def run(servers: Sequence[str], to: str | None, dry_run: bool, flags: Mapping[str, Any]) -> None:
    schemas = [_schema(each) for each in servers or SERVERS]
    for flag, value in (("--to", to), ("--database-url", flags["database_url"])):
        if value is not None and len(schemas) != 1:
            raise Failure(f"{flag} is for one server; say which one")
    # All are read first, so that a mistake is reported before anything is done.
    settings = [_settings(schema, flags) for schema in schemas]
    os.umask(OTHERS)
    log.configure("migrate", "info")
    for schema, its in zip(schemas, settings, strict=True):
        must_exist = its.database_must_exist
        try:
            with closing(
                Database(
                    its.database_url,
                    connections=1,
                    must_exist=must_exist,
                    must_replicate=its.database_must_replicate,
                    read_only=dry_run,
                )
            ) as database:
                planned = plan(database, schema, to, must_exist=must_exist)  # before there is a new file of SQLite
                if dry_run:
                    click.echo(f"{schema.owner}: {_planned(planned)}")
                else:
                    database.check()
                    click.echo(f"{schema.owner}: {_done(migrate(database, schema, to, must_exist=must_exist))}")
        except DatabaseError as error:
            raise Failure(f"{schema.owner}: {error}") from error


def _schema(text: str) -> Schema:
    """Of a server of the suite by its name, of any other by NAME=PACKAGE:FOLDER."""
    name, is_other, migrations = text.partition("=")
    if not is_other and name in SERVERS:
        return Schema(name, f"handfast.server.{name}:migrations")
    if name in SERVERS or not NAME.fullmatch(name) or not migrations:
        raise Failure(f"a server is {', '.join(SERVERS)}, or NAME=PACKAGE:FOLDER of its migrations, not {text!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a service that is not installed is run from its folder
    return Schema(name, migrations)


def _settings(schema: Schema, flags: Mapping[str, Any]) -> SuiteSettings:
    """The server's own, as far as they say which database it has. Raises Failure."""
    listen = next(iter(on_this_machine().values()))
    settings = settings_of(SuiteSettings, schema.owner, listen)
    return made(SuiteSettings, schema.owner, listen, settings, read_of_server(schema.owner, flags, DATABASE))


def _done(done: Plan) -> str:
    if not done.revisions:
        return _as_it_is(done)
    if done.version is None:
        return f"set up at {done.target}"
    return f"{'taken back' if done.goes_back else 'upgraded'} from {done.version} to {done.target}"


def _planned(planned: Plan) -> str:
    if not planned.revisions:
        return _as_it_is(planned)
    place = "is not set up" if planned.version is None else f"is at {planned.version}; to get to {planned.target}"
    lines = [f"{place}, these revisions would be {'taken back' if planned.goes_back else 'made'}:"]
    for revision in planned.revisions:
        lines.append(f"  {revision.name}  {revision.summary}")
        if planned.version is not None and not planned.goes_back:
            lines.append(f"        Code from {revision.oldest_code} on runs on it.")
        if not revision.in_one_transaction:
            lines.append("        Not in one transaction: where it ends halfway, the next run goes on.")
    return "\n".join(lines)


def _as_it_is(unchanged: Plan) -> str:
    if unchanged.ahead_of is None:
        return f"is at {unchanged.version}, and stays as it is"
    return (
        f"is at {unchanged.version}, which a newer release has made, and stays as it is; "
        f"this one knows {unchanged.ahead_of}"
    )
