"""The image, built and run: `make image-test`. Without the tools that this takes, `make test` skips it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import connect
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import SERVERS, on_this_machine
from handfast.users.v1.users_pb2 import GetUserRequest, User
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually
from tests.image.containers import Engine, variables, why_not

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(600)]

MEGABYTE = 1_000_000
LARGEST = 150 * MEGABYTE
SOCKETS = "/run/postgresql"
OPEN = {"HANDFAST_ALLOW_PLAINTEXT_BEYOND_LOOPBACK": "true", "HANDFAST_ALLOW_ANONYMOUS_BEYOND_LOOPBACK": "true"}
NOT_COMPILED = """
import os, sys
from handfast.server.cli.main import main
assert main(["health", "localhost:1"]) == 1
caches = [module.__spec__.cached for module in sys.modules.values() if getattr(module, "__spec__", None)]
print([each for each in caches if each and not os.path.exists(each)])
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as state:
        engine = Engine(tmp_path_factory.mktemp("containers"), state)
        engine.build()
        yield engine


def test_what_is_above_the_base_is_small(engine: Engine) -> None:
    assert engine.size("handfast") - engine.size("base") < LARGEST


def test_it_runs_as_nobody_on_files_that_cannot_be_changed_with_nothing_to_build_by(engine: Engine) -> None:
    look = "id -u; touch /opt/handfast/x /tmp/x; for each in cc gcc make pip; do command -v $each; done; true"
    status, printed = engine.run("-c", look, entrypoint="sh")
    assert (status, printed.splitlines()[0]) == (0, "65532")
    assert printed.count("Read-only file system") == 2
    assert len(printed.splitlines()) == 3


def test_all_that_a_health_check_loads_is_compiled_as_nothing_can_be_written_then(engine: Engine) -> None:
    status, printed = engine.run("-c", NOT_COMPILED, entrypoint="python3")
    assert (status, printed.splitlines()[-1]) == (0, "[]"), printed


def test_without_a_command_it_says_which_there_are(engine: Engine) -> None:
    status, printed = engine.run()
    assert status == 0
    assert printed.startswith("Usage: handfast ")


def test_a_server_that_would_be_open_to_others_does_not_start_until_its_settings_say_so(engine: Engine) -> None:
    database = variables({"HANDFAST_USERS_DATABASE_URL": "sqlite:////data/users.sqlite3"})
    status, printed = engine.run("serve", "users", options=database)
    assert status == 2
    assert re.match(r"handfast: users: --listen .* is 0\.0\.0\.0:50051, which other machines may reach", printed)


def test_its_health_check_follows_the_server_and_a_stop_is_orderly(engine: Engine) -> None:
    settings = {"HANDFAST_USERS_DATABASE_URL": "sqlite:////data/users.sqlite3", "HANDFAST_MIGRATE": "true"}
    options = ["--network", "none", "--tmpfs", "/data:mode=1777", *variables(settings | OPEN)]
    with engine.running("alone", "serve", "users", options=options):
        assert eventually(lambda: engine.is_healthy("alone")), engine.logs("alone")
        assert engine.stop("alone") == 0
        assert not engine.is_healthy("alone")


def test_three_containers_on_postgresql_commit_together(engine: Engine, server: PostgreSQL, tmp_path: Path) -> None:
    def in_container(url: str) -> str:
        parsed = sa.make_url(url)
        return parsed.set(query={**parsed.query, "host": SOCKETS}).render_as_string(hide_password=False)

    places = on_this_machine(free_first_port())
    settings = {name: in_container(url) for name, url in server.create_databases().items()}
    for name, address in places.items():
        settings |= {f"HANDFAST_{name.upper()}_LISTEN": address, f"HANDFAST_{name.upper()}_ADDRESS": address}
    # The socket alone: its folder is the database's own.
    socket = ("--volume", f"{server.socket_folder}/.s.PGSQL.5432:{SOCKETS}/.s.PGSQL.5432")
    options = [*socket, *variables(settings)]

    status, printed = engine.run("migrate", options=options)
    assert status == 0, printed
    with ExitStack() as stack:
        for name in SERVERS:
            stack.enter_context(engine.running(name, "serve", name, options=["--network", "host", *options]))
        for name, address in places.items():
            assert eventually(lambda at=address: engine.run("health", at)[0] == 0), engine.logs(name)  # type: ignore[misc]
        with connect(*places.values()) as suite:
            account = CreateAccountRequest(user=User(user_id="ada", email="ada@example.com"))
            suite.accounts.CreateAccount(account)
            assert suite.users.GetUser(GetUserRequest(user_id="ada")).user.email == "ada@example.com"
