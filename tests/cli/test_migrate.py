"""`handfast migrate`: says in a line for each server what it did, or would do, with the databases that servers have."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from handfast.server.process.settings import sqlite_url
from tests.cli.processes import Result
from tests.databases.postgresql import PostgreSQL
from tests.project.commands import ROOT

Run = Callable[..., Result]


def test_all_servers_are_set_up_by_their_own_settings_of_databases(handfast: Run, tmp_path: Path) -> None:
    variables = {f"HANDFAST_{name}_DATABASE_URL": url(tmp_path, name) for name in ("USERS", "TRANSACTIONS")}
    secret = tmp_path / "secret"
    secret.write_text(url(tmp_path, "PREFERENCES"))
    secret.chmod(0o600)
    variables["HANDFAST_PREFERENCES_DATABASE_URL_FILE"] = str(secret)
    result = handfast("migrate", **variables)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == "users: set up at 0005\npreferences: set up at 0004\naccounts: set up at 0003\n"
    assert {file.stem for file in tmp_path.glob("*.sqlite3")} == {"USERS", "PREFERENCES", "TRANSACTIONS"}
    assert handfast("migrate", "--dry-run", "preferences", **variables).stdout == (
        "preferences: is at 0004, and stays as it is\n"
    )


def test_a_dry_run_tells_each_revision_in_words(handfast: Run, tmp_path: Path) -> None:
    database = ("users", "--database-url", url(tmp_path, "users"))
    assert handfast("migrate", *database, "--dry-run").stdout.startswith(
        "users: is not set up, these revisions would be made:\n"
        "  0001  Users, and what the server needs to take part in transactions.\n"
    )
    assert not list(tmp_path.glob("users*"))
    assert handfast("migrate", *database, "--to", "0004").stdout == "users: set up at 0004\n"
    assert handfast("migrate", *database, "--dry-run").stdout == (
        "users: is at 0004; to get to 0005, these revisions would be made:\n"
        "  0005  The stored replies of writes are erased with the resource that they are about.\n"
        "        Code from 0004 on runs on it.\n"
    )
    assert handfast("migrate", *database).stdout == "users: upgraded from 0004 to 0005\n"
    assert handfast("migrate", *database, "--to", "0004", "--dry-run").stdout == (
        "users: is at 0005; to get to 0004, these revisions would be taken back:\n"
        "  0005  The stored replies of writes are erased with the resource that they are about.\n"
    )
    assert handfast("migrate", *database, "--to", "0004").stdout == "users: taken back from 0005 to 0004\n"
    refused = handfast("serve", *database)
    assert refused.status == 2
    (told,) = refused.told
    assert told.endswith(
        "its schema is 0004, and 0005 is needed: run `handfast migrate users`, or start with --migrate"
    )


def test_a_release_says_that_a_schema_is_newer_than_it_knows(handfast: Run, tmp_path: Path) -> None:
    database = ("users", "--database-url", url(tmp_path, "users"))
    handfast("migrate", *database)
    with closing(sqlite3.connect(tmp_path / "users.sqlite3")) as newer:
        newer.execute("UPDATE alembic_version_users SET version_num = '0006'")
        newer.commit()
    expected = "users: is at 0006, which a newer release has made, and stays as it is; this one knows 0005\n"
    assert [handfast("migrate", *database, *more).stdout for more in ((), ("--dry-run",))] == [expected, expected]


def test_a_dry_run_leaves_a_file_as_it_is_whatever_is_in_it(handfast: Run, tmp_path: Path) -> None:
    empty, another = tmp_path / "empty.sqlite3", tmp_path / "another.sqlite3"
    empty.touch()
    with closing(sqlite3.connect(another)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = another.read_bytes()
    for file in (empty, another):
        assert handfast("migrate", "users", "--database-url", sqlite_url(file), "--dry-run").status == 0
    assert (empty.read_bytes(), another.read_bytes()) == (b"", before)
    assert {file.name for file in tmp_path.iterdir()} == {"empty.sqlite3", "another.sqlite3"}


def test_what_must_replicate_is_not_set_up_where_nothing_does(handfast: Run, server: PostgreSQL) -> None:
    server.emptied()
    arguments = ("migrate", "users", "--database-url", server.url("shared"))
    refused = handfast(*arguments, HANDFAST_DATABASE_MUST_REPLICATE="true")
    assert (refused.status, refused.stdout) == (2, "")
    assert "without synchronous_standby_names, and database_must_replicate is set" in refused.stderr
    assert handfast(*arguments).stdout == "users: set up at 0005\n"


def test_another_service_is_named_with_its_migrations(handfast: Run, tmp_path: Path) -> None:
    service = {"PYTHONPATH": str(ROOT / "examples" / "credits"), "HANDFAST_CREDITS_DATABASE_URL": url(tmp_path, "c")}
    result = handfast("migrate", "credits=credits:migrations", **service)
    assert result.stdout.startswith("credits: set up at "), result.stderr


def test_what_cannot_be_meant_is_told_in_one_line(handfast: Run, tmp_path: Path) -> None:
    database = ("--database-url", url(tmp_path, "users"))
    for arguments, why in (
        (
            ("nobody",),
            "a server is users, preferences, accounts, or NAME=PACKAGE:FOLDER of its migrations, not 'nobody'",
        ),
        (("users", "--to", "7", *database), "there is no revision 7; there are 0001, 0002, 0003, 0004, 0005"),
        (("--to", "0001"), "--to is for one server; say which one"),
        (database, "--database-url is for one server; say which one"),
        (("users",), "--database-url (or HANDFAST_USERS_DATABASE_URL) is required: "),
        (("credits=nowhere:migrations", *database), "cannot read the migrations nowhere:migrations: "),
    ):
        result = handfast("migrate", *arguments)
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.startswith("handfast: migrate: ")
        assert why in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("users*"))


def url(folder: Path, name: str) -> str:
    return sqlite_url(folder / f"{name}.sqlite3")
