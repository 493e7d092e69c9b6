"""PostgreSQL as it is found elsewhere: with parameters in its URL, shared by several servers, behind a pooler."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.data.postgresql import TIMEOUTS
from handfast.server.users.server import SCHEMA
from handfast.users.v1.users_pb2 import GetUserRequest, User
from tests.cli.processes import run_process, suite_up
from tests.databases.pgbouncer import PGBOUNCER, SESSIONS, pgbouncer
from tests.databases.postgresql import PostgreSQL
from tests.project.commands import ROOT

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="`make pgbouncer` gets it, where apt-get is")
OWNERS = {"users": "USERS", "preferences": "PREFERENCES", "accounts": "TRANSACTIONS"}


def shown(connection: sa.Connection, setting: str) -> str:
    return str(connection.exec_driver_sql(f"SHOW {setting}").scalar_one())


def with_parameters(url: str, **parameters: Any) -> str:
    return sa.make_url(url).update_query_dict(parameters).render_as_string(hide_password=False)


def test_what_the_url_says_holds_and_what_it_leaves_out_is_added(server: PostgreSQL) -> None:
    options = "-c lock_timeout=77 -csearch_path=theirs"
    url = with_parameters(server.url("postgres"), options=options, keepalives_idle="9", application_name="theirs")
    with closing(Database(url)) as database:

        def look(connection: sa.Connection) -> None:
            driver: Any = connection.connection.driver_connection
            told = driver.info.get_parameters()
            assert (told["keepalives_idle"], told["keepalives_count"], told["connect_timeout"]) == ("9", "3", "5")
            assert shown(connection, "lock_timeout") == "77ms"
            assert shown(connection, "idle_in_transaction_session_timeout") == "5s"
            assert shown(connection, "search_path") == "theirs"
            assert shown(connection, "application_name") == "theirs"

        database.write(look)
        with database.read() as connection:
            look(connection)


def test_of_several_hosts_one_that_takes_writes_is_found(server: PostgreSQL) -> None:
    hosts = ("127.0.0.1:1", f"{server.socket_folder}:5432")
    with closing(
        Database(with_parameters(server.url("postgres"), host=hosts, target_session_attrs="primary"))
    ) as found:
        found.check()


def test_a_password_is_not_shown_wherever_it_stands_in_the_url() -> None:
    for url in ("postgresql://u:hunter2@h/d", "postgresql://u@h/d?password=hunter2&sslpassword=hunter2"):
        assert "hunter2" not in Database(url).name


def test_three_servers_share_a_database_of_which_each_has_a_schema_as_the_operator_is_told_to_set_it_up(
    server: PostgreSQL, empty_database: str, tmp_path: Path
) -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Databases\n")[2].partition("\n## ")[0]
    shell, roles = re.findall(r"```(?:sh|sql)\n(.*?)```", section, re.DOTALL)[:2]
    told = dict(re.findall(r"export (\w+)='postgresql://handfast@db/handfast\?(options=[^']*)'", shell))
    assert told.keys() == {f"HANDFAST_{each}_DATABASE_URL" for each in ("USERS", "PREFERENCES", "TRANSACTIONS")}

    def urls(role: str) -> dict[str, str]:
        url = sa.make_url(server.url(empty_database)).set(username=role).render_as_string(hide_password=False)
        return {name: f"{url}&{options}" for name, options in told.items()}

    server.execute("CREATE ROLE handfast LOGIN", f"ALTER DATABASE {empty_database} OWNER TO handfast")  # createdb
    with closing(Database(urls("handfast")["HANDFAST_USERS_DATABASE_URL"])) as database:
        (schemas,) = re.findall(r"psql .* -c '(.*)'", shell)
        database.write(lambda connection: [connection.exec_driver_sql(each) for each in schemas.split(";")])
    server.execute(*filter(str.strip, roles.split(";")), database=empty_database)
    assert run_process(("migrate",), urls("handfast")).status == 0
    with suite_up(tmp_path, urls("handfast_server")) as process, process.connect() as suite:
        changes_an_account(suite)


def test_a_server_refuses_the_database_of_another_in_one_line(server: PostgreSQL, empty_database: str) -> None:
    url = server.url(empty_database)
    with closing(Database(url)) as database:
        upgrade(database, SCHEMA)
    for other in ("preferences", "accounts"):
        result = run_process(("serve", other, "--database-url", url), {})
        assert result.status == 2
        (told,) = result.told
        assert told.startswith(f"handfast: {other}: cannot use postgresql")
        assert told.endswith(f": it holds the data of users, and {other} needs a database or a schema of its own")


def test_a_schema_that_does_not_exist_or_that_the_role_may_not_use_is_told_in_one_line(
    server: PostgreSQL, empty_database: str
) -> None:
    server.execute("CREATE ROLE outsider LOGIN", "CREATE SCHEMA users", database=empty_database)
    for role, schema in (("postgres", "absent"), ("outsider", "users")):
        url = with_parameters(server.url(empty_database), options=f"-csearch_path={schema}", user=role)
        result = run_process(("migrate", "users", "--database-url", url), {})
        assert result.status == 2
        (told,) = result.told
        assert told.endswith(f"the search_path is {schema}, and has no schema that the role {role} may use")


@pytest.fixture
def pooled(server: PostgreSQL, empty_database: str) -> Iterator[Database]:
    with pgbouncer(server, "postgres") as url:
        database = Database(url.set(database=empty_database).render_as_string(), connections=8)
        yield database
        database.close()


@needs_pgbouncer
def test_connections_share_the_sessions_of_a_pooler(pooled: Database) -> None:
    pooled.write(lambda connection: connection.exec_driver_sql("CREATE TABLE counted (id INTEGER, n INTEGER)"))
    pooled.write(lambda connection: connection.exec_driver_sql("INSERT INTO counted VALUES (1, 0)"))
    callers, times = 4 * SESSIONS, 20
    together = threading.Barrier(callers)
    count = sa.text("UPDATE counted SET n = n + :more WHERE id = 1")
    read = sa.text("SELECT n FROM counted WHERE id = :id")

    def call() -> None:
        together.wait()
        for _ in range(times):
            pooled.write(lambda connection: connection.execute(count, {"more": 1}))
            with pooled.read() as connection:
                connection.execute(read, {"id": 1}).scalar_one()

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(call) for _ in range(callers)]:
            done.result()
    with pooled.read() as connection:
        assert connection.execute(read, {"id": 1}).scalar_one() == callers * times


@needs_pgbouncer
def test_behind_a_pooler_each_local_transaction_has_its_timeouts_and_leaves_none(pooled: Database) -> None:
    def look(connection: sa.Connection) -> dict[str, str]:
        return {name: shown(connection, name) for name in TIMEOUTS}

    assert pooled.write(look) == {"lock_timeout": "3s", "idle_in_transaction_session_timeout": "5s"}
    with pooled.read_durable() as connection:
        assert look(connection) == {"lock_timeout": "3s", "idle_in_transaction_session_timeout": "5s"}
    with pooled.read() as connection:
        assert look(connection) == {"lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}


@needs_pgbouncer
def test_a_query_is_cancelled_through_a_pooler(pooled: Database) -> None:
    with pooled.read() as connection:
        driver: Any = connection.connection.driver_connection
        with ThreadPoolExecutor(1) as pool:
            query = pool.submit(connection.exec_driver_sql, "SELECT pg_sleep(3600)")
            while not query.done():  # it may not have begun
                driver.cancel_safe(timeout=5)
            with pytest.raises(sa.exc.OperationalError, match="canceling statement due to user request"):
                query.result()


@needs_pgbouncer
def test_three_servers_share_a_database_behind_a_pooler(
    server: PostgreSQL, empty_database: str, tmp_path: Path
) -> None:
    roles = {owner: f"{empty_database}_{owner}" for owner in OWNERS}
    for owner, role in roles.items():
        statements = (
            f"CREATE ROLE {role} LOGIN",
            f"CREATE SCHEMA {owner} AUTHORIZATION {role}",
            f"ALTER ROLE {role} SET search_path = {owner}",
        )
        server.execute(*statements, database=empty_database)
    with pgbouncer(server, "postgres", *roles.values()) as url:
        urls = {
            f"HANDFAST_{OWNERS[owner]}_DATABASE_URL": url.set(username=role, database=empty_database).render_as_string()
            for owner, role in roles.items()
        }
        with suite_up(tmp_path, urls) as process, process.connect() as suite:
            changes_an_account(suite)


def changes_an_account(suite: Suite) -> None:
    """Through all three servers, often enough for what a driver does only with what is repeated."""
    user = User(user_id="ada", email="ada@example.com")
    suite.accounts.CreateAccount(CreateAccountRequest(user=user))
    for number in range(10):
        name, theme = f"Ada {number}", ("light", "dark")[number % 2]
        change = UpdateUserAndPreferencesRequest(
            user=User(user_id="ada", display_name=name),
            preferences=Preferences(values={"theme": Value(string_value=theme)}),
        )
        suite.accounts.UpdateUserAndPreferences(change)
        assert suite.users.GetUser(GetUserRequest(user_id="ada")).user.display_name == name
        preferences = suite.preferences.GetPreferences(GetPreferencesRequest(user_id="ada")).preferences
        assert preferences.values["theme"].string_value == theme
