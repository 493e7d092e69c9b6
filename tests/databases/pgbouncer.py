"""PgBouncer in transaction mode, before a PostgreSQL: each transaction may meet another session."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from handfast.server.cli.ports import free_first_port
from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE, eventually
from tests.project.commands import find_tool

PGBOUNCER = find_tool("pgbouncer") or find_tool("/usr/sbin/pgbouncer")  # which users may not have on their PATH
SESSIONS = 2  # of each user and database, so that connections have to share them


@contextmanager
def pgbouncer(server: PostgreSQL, *users: str) -> Iterator[sa.URL]:
    """Where it is, without a database. It lets these users in without a password."""
    assert PGBOUNCER is not None
    port = free_first_port()
    owner = Path(server.socket_folder).stat().st_uid
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "users.txt").write_text("".join(f'"{user}" ""\n' for user in users))
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.socket_folder}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder}/users.txt\n"
            f"pool_mode = transaction\ndefault_pool_size = {SESSIONS}\nmax_client_conn = 500\n"
        )
        as_owner: dict[str, Any] = {}
        if owner != os.geteuid():  # where PostgreSQL does not run as root, which it refuses as well
            for each in (folder, *folder.iterdir()):
                os.chown(each, owner, -1)
            as_owner = {"user": owner}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([PGBOUNCER, folder / "pgbouncer.ini"], stderr=log, **as_owner)
        url = sa.URL.create("postgresql", username=users[0], host="127.0.0.1", port=port)
        try:
            assert eventually(lambda: process.poll() is not None or _answers(url)), (folder / "log").read_text()
            assert process.poll() is None, (folder / "log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _answers(url: sa.URL) -> bool:
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg", database="postgres"))
    try:
        engine.connect().close()
    except sa.exc.OperationalError:
        return False
    finally:
        engine.dispose()
    return True
