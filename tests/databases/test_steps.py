"""Revisions that are not one transaction: calls go on meanwhile, and what ended halfway goes on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import migrate, plan
from handfast.server.chassis.data.schema import Schema
from handfast.server.cli.supervisor import HANDFAST
from tests.cli.processes import CLEAN, run_process
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually
from tests.project.commands import ROOT
from tests.project.readme import blocks

ENV = """\
import sqlalchemy as sa
from handfast.server.chassis import run_migrations
run_migrations(sa.MetaData())
"""
PARCELS = """\
import sqlalchemy as sa
from alembic import op
revision, down_revision, oldest_code = "0001", None, "0001"
def upgrade():
    key = sa.Column("parcel_id", sa.Integer, primary_key=True)
    op.create_table("parcels", key, sa.Column("weight_grams", sa.Integer))
"""
HEAVY = """\
import sqlalchemy as sa
from alembic import op
revision, down_revision, oldest_code = "0002", "0001", "0001"
def upgrade():
    op.add_column("parcels", sa.Column("is_heavy", sa.Boolean))
    op.add_column("parcels", sa.Column("times_weighed", sa.Integer, server_default="0"))
def downgrade():
    op.drop_column("parcels", "times_weighed")
    op.drop_column("parcels", "is_heavy")
"""
AFTER = """\
from alembic import op
revision, down_revision, oldest_code = "0004", "0003", "0003"
def upgrade():
    op.execute("CREATE TABLE after_it (id INTEGER)")
def downgrade():
    op.execute("DROP TABLE after_it")
"""
(GUIDE,) = (each.code for each in blocks("python", ROOT / "docs" / "chassis.md") if "in_one_transaction" in each.code)
KILLED = """\
import os, signal
import sqlalchemy as sa
from handfast.server.chassis import change_in_batches
revision, down_revision, oldest_code, in_one_transaction = "0003", "0002", "0002", False
parcels = sa.table("parcels", *map(sa.column, ("parcel_id", "is_heavy", "times_weighed")))
batches = 0
def upgrade():
    change_in_batches(parcels.c.parcel_id, weigh, rows=10)
def weigh(connection, within):
    global batches
    batches += 1
    unknown = parcels.c.is_heavy.is_(None)
    times = parcels.c.times_weighed + 1
    connection.execute(sa.update(parcels).where(within, unknown).values(is_heavy=True, times_weighed=times))
    if batches == 3 and "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = 45
START_S = 60.0
"""For a process, on a busy machine."""
HEAVY_ROWS = sa.text("SELECT count(*) FROM parcels WHERE is_heavy")
IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('parcels_by_weight')")
INDEX = sa.text("SELECT to_regclass('parcels_by_weight')::oid")
BUILDERS = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"


def parcels(folder: Path, in_steps: str = GUIDE) -> Schema:
    """A service whose revision 0003 this is."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text(ENV)
    (folder / "migrations" / "script.py.mako").touch()
    for name, code in (("0001", PARCELS), ("0002", HEAVY), ("0003", in_steps), ("0004", AFTER)):
        (versions / f"{name}_revision.py").write_text(code)
    return Schema("parcels", str(folder / "migrations"))


@pytest.fixture
def database(new_url: str) -> Iterator[Database]:
    with closing(Database(new_url)) as database:
        yield database


def fill(database: Database, schema: Schema) -> None:
    """Sets it up without the steps, and with rows."""
    migrate(database, schema, "0002")
    rows = ", ".join(f"({number}, {number * 100})" for number in range(ROWS))
    run(database, f"INSERT INTO parcels (parcel_id, weight_grams) VALUES {rows}")


def run(database: Database, statement: str) -> None:
    database.write(lambda connection: connection.execute(sa.text(statement)))


def scalar(database: Database, query: sa.TextClause) -> object:
    with database.read() as connection:
        return connection.execute(query).scalar()


def version(database: Database, schema: Schema) -> str:
    with database.read() as connection:
        return str(connection.execute(schema.version()).one()[0])


def test_what_the_guide_shows_is_made_taken_back_and_made_again(database: Database, tmp_path: Path) -> None:
    schema = parcels(tmp_path)
    fill(database, schema)
    assert [each.name for each in migrate(database, schema).revisions] == ["0003", "0004"]
    assert (scalar(database, HEAVY_ROWS), version(database, schema)) == (34, "0004")
    with database.read() as connection:
        assert [each["name"] for each in sa.inspect(connection).get_indexes("parcels")] == ["parcels_by_weight"]
    migrate(database, schema, "0002")
    with database.read() as connection:
        assert sa.inspect(connection).get_indexes("parcels") == []
    migrate(database, schema)
    assert version(database, schema) == "0004"


def test_a_new_database_gets_all_revisions(database: Database, tmp_path: Path) -> None:
    schema = parcels(tmp_path)
    assert migrate(database, schema).target == "0004"
    assert version(database, schema) == "0004"
    assert plan(database, schema).revisions == []


def test_batches_that_were_killed_stay_and_the_next_run_goes_on(new_url: str, tmp_path: Path) -> None:
    schema = parcels(tmp_path, KILLED)
    command, environment = ("migrate", f"parcels={schema.migrations}"), {"HANDFAST_PARCELS_DATABASE_URL": new_url}
    with closing(Database(new_url)) as database:
        fill(database, schema)
        told = run_process((*command, "--dry-run"), environment).stdout
        assert "Not in one transaction: where it ends halfway, the next run goes on." in told
        assert run_process(command, {**environment, "DIES": "1"}).status == -signal.SIGKILL
        assert (scalar(database, HEAVY_ROWS), version(database, schema)) == (20, "0002")
        assert run_process(command, environment).stdout == "parcels: upgraded from 0002 to 0004\n"
        weighed_once = sa.text("SELECT count(*) FROM parcels WHERE times_weighed = 1")
        assert (scalar(database, weighed_once), scalar(database, HEAVY_ROWS)) == (ROWS, ROWS)


def test_steps_in_a_revision_that_is_one_transaction_are_refused(database: Database, tmp_path: Path) -> None:
    schema = parcels(tmp_path, GUIDE.replace("in_one_transaction = False", ""))
    fill(database, schema)
    with pytest.raises(DatabaseError, match="works in steps has to say `in_one_transaction = False`"):
        migrate(database, schema)
    assert version(database, schema) == "0002"


def test_several_processes_take_the_same_steps_once_or_to_the_same_end(
    database: Database, new_url: str, tmp_path: Path
) -> None:
    schema = parcels(tmp_path, KILLED)
    fill(database, schema)
    with ThreadPoolExecutor(3) as threads:
        for each in [threads.submit(migrate_apart, new_url, schema) for _ in range(3)]:
            each.result()
    assert scalar(database, sa.text("SELECT sum(times_weighed) FROM parcels")) == ROWS


def migrate_apart(url: str, schema: Schema) -> None:
    """As a replica does."""
    with closing(Database(url)) as database:
        migrate(database, schema)


@contextmanager
def older_transaction(database: Database) -> Iterator[None]:
    """One that has written, for which whoever builds an index waits."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql("UPDATE parcels SET weight_grams = 1 WHERE parcel_id = 1")
        yield


def test_calls_write_while_an_index_is_built_and_other_replicas_wait_for_it(server: PostgreSQL, tmp_path: Path) -> None:
    url, schema = server.emptied(), parcels(tmp_path)
    with closing(Database(url)) as database, ThreadPoolExecutor(3) as threads:
        fill(database, schema)
        with older_transaction(database):
            replicas: list[Future[None]] = [threads.submit(migrate_apart, url, schema) for _ in range(3)]
            assert eventually(lambda: scalar(database, sa.text(BUILDERS)))
            asks = sa.text(
                "SELECT count(*) >= 2 FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory%' OR query = 'ROLLBACK'"
            )
            assert eventually(lambda: scalar(database, asks))
            run(database, "UPDATE parcels SET weight_grams = 2 WHERE parcel_id = 2")
            assert not any(each.done() for each in replicas)
        for each in replicas:
            each.result()
        assert scalar(database, IS_VALID) is True


@pytest.mark.parametrize("ends", ["by itself", "unfinished"])
def test_an_index_whose_builder_was_killed_is_there_after_the_next_run(
    server: PostgreSQL, tmp_path: Path, ends: str
) -> None:
    """PostgreSQL builds on meanwhile, to the end or not."""
    url, schema = server.emptied(), parcels(tmp_path)
    with closing(Database(url)) as database, ThreadPoolExecutor(1) as thread:
        fill(database, schema)
        with older_transaction(database):
            environment = {**CLEAN, "HANDFAST_PARCELS_DATABASE_URL": url}
            builder = subprocess.Popen([*HANDFAST, "migrate", f"parcels={schema.migrations}"], env=environment)
            assert eventually(lambda: scalar(database, sa.text(BUILDERS)), START_S)
            builder.kill()
            builder.wait()
            assert scalar(database, IS_VALID) is False
            if ends == "unfinished":
                run(database, f"SELECT pg_terminate_backend(({BUILDERS}), 5000)")
            following = thread.submit(migrate_apart, url, schema)
            waits = "LOCK TABLE" if ends == "by itself" else "DROP INDEX CONCURRENTLY"
            waiters = f"SELECT pid FROM pg_stat_activity WHERE query LIKE '%{waits}%' AND wait_event_type = 'Lock'"
            assert eventually(lambda: scalar(database, sa.text(waiters)))
            begun = scalar(database, INDEX)
        following.result()
        assert scalar(database, IS_VALID) is True
        assert (scalar(database, INDEX) == begun) is (ends == "by itself")


def test_a_batch_that_meets_the_lock_of_a_call_lets_others_pass_and_comes_again(
    server: PostgreSQL, tmp_path: Path
) -> None:
    url, schema = server.emptied(), parcels(tmp_path, KILLED)
    with closing(Database(url)) as database, ThreadPoolExecutor(1) as thread:
        fill(database, schema)
        with older_transaction(database):
            following = thread.submit(migrate_apart, url, schema)
            gave_up = "SELECT pid FROM pg_stat_activity WHERE query = 'ROLLBACK' AND state = 'idle'"
            assert eventually(lambda: scalar(database, sa.text(gave_up)))
            run(database, "UPDATE parcels SET weight_grams = 2 WHERE parcel_id = 2")
        following.result()
        assert scalar(database, HEAVY_ROWS) == ROWS
