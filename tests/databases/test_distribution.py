"""A database may spread the rows of the suite over many machines: each statement finds its rows by one key, or is
marked as one that does not. It is PostgreSQL that says which statements there are, so none escapes.
"""

from __future__ import annotations

import gc
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from google.protobuf.descriptor import ServiceDescriptor

from handfast.accounts.v1 import accounts_pb2
from handfast.client import connect
from handfast.preferences.v1 import preferences_pb2
from handfast.server.accounts import server as accounts
from handfast.server.accounts import tables as accounts_tables
from handfast.server.chassis.data import idempotency
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, distribution_key
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.data.postgresql_session import PostgresqlSession
from handfast.server.chassis.data.schema import MARK
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.server import Server
from handfast.server.cli.ports import free_first_port
from handfast.server.preferences import server as preferences
from handfast.server.preferences import tables as preferences_tables
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.coordinator import pruner, reply_store
from handfast.server.transactions.coordinator.pruner import Pruner
from handfast.server.transactions.participant import sweeper
from handfast.server.transactions.participant.sweeper import Sweeper
from handfast.server.users import server as users
from handfast.server.users import tables as users_tables
from handfast.transactions.v1 import transactions_pb2
from handfast.users.v1 import users_pb2
from tests.databases.distribution import Keys, complaint, keys_of, reason_of
from tests.databases.every_call import EveryCall
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually

SERVERS = {"users": users, "preferences": preferences, "accounts": accounts}
METADATA = {
    "users": users_tables.metadata,
    "preferences": preferences_tables.metadata,
    "accounts": accounts_tables.metadata,
}
VERSIONS = {f"alembic_version_{name}": None for name in SERVERS}
"""The tables of the versions of schemas, which have one row."""
SERVICES: list[ServiceDescriptor] = [
    service
    for file in (users_pb2, preferences_pb2, accounts_pb2, transactions_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d .*?\] (\w+): +(.*)", re.DOTALL)
_STATEMENT = re.compile(r"(?:statement|execute [^:]+): (.*)", re.DOTALL)
_PARAMETER = re.compile(r"\$\d+|%\(\w+\)s")
_LIBRARIES = ("/chassis/data/", "/sqlalchemy/", "/contextlib.py", "/functools.py", "/tests/")


class Places:
    """Where statements come from: by their text, the nearest line of code that is not of chassis/data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._places: dict[str, str] = {}
        message = PostgresqlSession._message

        def noted(session: PostgresqlSession, sql: str, *parameters: Any) -> Any:
            self._note(sql)
            return message(session, sql, *parameters)

        monkeypatch.setattr(PostgresqlSession, "_message", noted)
        sa.event.listen(sa.Engine, "before_cursor_execute", self._executed)

    def __getitem__(self, sql: str) -> str:
        return self._places.get(_normal(sql), "an unknown place")

    def close(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._executed)

    def _executed(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        self._note(sql)

    def _note(self, sql: str) -> None:
        if (normal := _normal(sql)) not in self._places:
            frames = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))]
            files = [(frame.f_code.co_filename, frame.f_lineno) for frame in frames]
            found = next((each for each in files if not any(part in each[0] for part in _LIBRARIES)), files[0])
            self._places[normal] = f"{found[0]}:{found[1]}"


class Run:
    """Servers on databases of which PostgreSQL logs each statement."""

    def __init__(self, log: Path, urls: Mapping[str, str], stack: ExitStack) -> None:
        port = free_first_port()
        addresses = {name: f"127.0.0.1:{port + offset}" for offset, name in enumerate(SERVERS)}
        self._log, self._begin = log, log.stat().st_size
        peers: dict[str, Any] = {f"{name}_address": address for name, address in addresses.items()}
        self.servers: list[Server] = []
        for name, module in SERVERS.items():
            settings = SuiteSettings(name=name, listen=addresses[name], database_url=urls[name], grace=0.5, **peers)
            self.servers.append(module.build(settings))
            self.servers[-1].start()
            stack.callback(self.servers[-1].stop)
        client = stack.enter_context(connect(*addresses.values()))
        EveryCall(client).make()

    def statements(self) -> list[str]:
        """Each once, as PostgreSQL has logged them."""
        found: dict[str, None] = {}
        with self._log.open() as log:
            log.seek(self._begin)
            entries = re.split(r"\n(?!\t)", log.read())
        for entry in entries:
            if (logged := _ENTRY.match(entry)) and (sent := _STATEMENT.match(logged[2])):
                found.setdefault(sent[1].replace("\t", " "))
        return list(found)

    def called(self) -> set[str]:
        """The methods that were called, and answered with OK at least once."""
        return {
            sample.labels["grpc_method"]
            for server in self.servers
            for family in server.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "grpc_server_handled_total" and sample.labels["grpc_code"] == "OK" and sample.value
        }

    def work_in_the_background(self) -> None:
        """Until nothing is left of what has finished."""
        for server in self.servers:
            for task in server._background:
                if isinstance(task, Sweeper):
                    assert eventually(partial(self._swept, task))
                elif isinstance(task, Pruner):
                    task._prune()

    def _swept(self, task: Sweeper) -> bool:
        task._rounds = 0
        task._round()
        with task._store.database.read() as connection:
            return task._store.branches.count_unfinished(connection) == 0

    @staticmethod
    def not_sent() -> list[str]:
        """The hot statements of the servers that no call has used."""
        made = [each for each in gc.get_objects() if isinstance(each, Statement) and _is_ours(each)]
        return [_as_changed(each._statement, each._database.backend.dialect) for each in made if not each._forms]


def _as_changed(statement: sa.Executable, dialect: sa.Dialect) -> str:
    """As it is when it sets whatever it may set: which columns those are, its callers say."""
    columns = None
    if isinstance(statement, sa.Update):
        table = cast(sa.Table, statement.table)
        columns = [column.name for column in table.columns if column.name != distribution_key(table)]
    return str(cast(sa.ClauseElement, statement).compile(dialect=dialect, column_keys=columns))


def _is_ours(statement: Statement) -> bool:
    return "distribution_" in statement._database.name


def _normal(sql: str) -> str:
    return " ".join(_PARAMETER.sub("?", sql).split())


@pytest.fixture(scope="module")
def keys() -> Keys:
    tables = [table for metadata in METADATA.values() for table in metadata.tables.values()]
    return {**keys_of([*tables, MARK]), **VERSIONS}


@pytest.fixture(scope="module")
def urls(server: PostgreSQL) -> dict[str, str]:
    """Of a database for each server, set up, in which each statement is logged from now on."""
    urls = {}
    for name, module in SERVERS.items():
        database = f"distribution_{name}"
        server.execute(f"CREATE DATABASE {database}")
        urls[name] = server.url(database)
        with closing(Database(urls[name])) as made:
            upgrade(made, module.SCHEMA)
        server.execute(f"ALTER DATABASE {database} SET log_statement = 'all'")
    return urls


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    with closing(Places(monkeypatch)) as places:
        yield places


def test_each_statement_finds_its_rows_by_one_key_or_says_why_not(
    server: PostgreSQL, urls: dict[str, str], keys: Keys, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        run = Run(server.log, urls, stack)
        monkeypatch.setattr(sweeper, "RETENTION_US", 0)
        monkeypatch.setattr(pruner, "RETENTION_US", 0)
        for module in (idempotency, reply_store):
            monkeypatch.setattr(module, "KEPT_US", 0)
        run.work_in_the_background()
        methods = {method.name for service in SERVICES for method in service.methods}
        assert methods <= run.called()
        sent, not_sent = run.statements(), run.not_sent()
    assert len(sent) > 100
    statements = [*sent, *not_sent]
    marked = {sql: reason for sql in statements if (reason := reason_of(sql)) is not None}
    wrong = {sql: found for sql in statements if sql not in marked and (found := complaint(sql, keys)) is not None}
    assert not wrong, "\n\n".join(f"{found}:\n{sql}\nsent by {places[sql]}" for sql, found in wrong.items())
    assert set(marked.values()) == set(Reason)
    assert [sql for sql in marked if complaint(sql, keys) is None] == []  # which would need no mark


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT users.email FROM users WHERE users.user_id = $1", None),
        ("SELECT u.email FROM users AS u WHERE u.user_id = ANY ($1::VARCHAR[]) FOR UPDATE OF u", None),
        ("SELECT users.email FROM users, horizon WHERE users.user_id = $1 AND horizon.transaction_id < $2", None),
        ("INSERT INTO users (user_id, email) VALUES ($1, $2) ON CONFLICT DO NOTHING", None),
        ("UPDATE users SET email = $1 WHERE users.user_id = $2 AND users.present", None),
        ("LOCK TABLE horizon IN EXCLUSIVE MODE", None),
        ("SELECT users.email FROM users", "the rows of users are not found by user_id"),
        ("SELECT users.email FROM users WHERE users.email = $1", "the rows of users are not found by user_id"),
        ("DELETE FROM users WHERE users.user_id > $1", "the rows of users are not found by user_id"),
        ("DELETE FROM users WHERE users.user_id = $1 OR users.present", "the rows of users are not found by user_id"),
        ("DELETE FROM users WHERE NOT users.user_id = $1", "the rows of users are not found by user_id"),
        ("UPDATE users SET user_id = $1 WHERE users.present", "the rows of users are not found by user_id"),
        (
            "SELECT 1 FROM users JOIN branches ON branches.transaction_id = users.pending WHERE users.user_id = $1",
            "the rows of branches are not found by transaction_id",
        ),
        (
            "INSERT INTO users (user_id) SELECT branches.owner FROM branches WHERE branches.transaction_id = $1",
            "the user_id of what it inserts into users is not given",
        ),
        (
            "SELECT 1 FROM users, branches WHERE users.user_id = $1 AND branches.transaction_id = $2",
            "its rows are found by transaction_id = $2 and by user_id = $1",
        ),
        ("LOCK TABLE users IN EXCLUSIVE MODE", "it locks the table users"),
        ("SELECT 1 FROM payments", "the table payments is unknown"),
        ("TRUNCATE users", "it is no single SELECT, INSERT, UPDATE or DELETE"),
        ("SHOW fsync; DELETE FROM users", "it is no single SELECT, INSERT, UPDATE or DELETE"),
        ("SELECT set_config('a', email, true) FROM users", "the rows of users are not found by user_id"),
        (
            "SELECT email FROM users WHERE email IN (SELECT email FROM users WHERE users.user_id = $1)",
            "the rows of users are not found by user_id",
        ),
        (
            "SELECT 1 FROM users WHERE user_id = $1 AND 1 = (SELECT count(*) FROM users)",
            "the rows of users are not found by user_id",
        ),
        (
            "SELECT 1 FROM users AS u JOIN users AS v ON true WHERE u.user_id = $1 AND v.user_id = $2",
            "its rows are found by user_id = $1 and by user_id = $2",
        ),
        (
            "INSERT INTO users (user_id, email) VALUES ($1, $2), ($3, $4)",
            "its rows are found by user_id = $1 and by user_id = $3",
        ),
        ("UPDATE users SET user_id = $1 WHERE users.user_id = $2", "it changes the user_id of users"),
        (
            "INSERT INTO users (user_id) VALUES ($1) ON CONFLICT (user_id) DO UPDATE SET user_id = $2",
            "it changes the user_id of users",
        ),
    ],
)
def test_a_statement_that_goes_beyond_one_key_is_found(keys: Keys, sql: str, found: str | None) -> None:
    assert complaint(sql, keys) == found


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_in_the_catalogue_ties_rows_of_different_keys(urls: dict[str, str], keys: Keys, name: str) -> None:
    with closing(Database(urls[name])) as database, database.read() as connection:
        inspector = sa.inspect(connection)
        tables = inspector.get_table_names()
        assert inspector.get_sequence_names() == []
        assert set(tables) <= keys.keys()
        for table in tables:
            assert inspector.get_foreign_keys(table) == [], table
            key = keys[table]
            unique = [set(each["column_names"]) for each in inspector.get_indexes(table) if each["unique"]]
            unique += [set(each["column_names"]) for each in inspector.get_unique_constraints(table)]
            unique.append({*inspector.get_pk_constraint(table)["constrained_columns"]})
            assert key is None or all(key in columns for columns in unique), (table, unique)
