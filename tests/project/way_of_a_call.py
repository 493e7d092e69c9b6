"""Prints the files of the project that have a part in one GetUser, from the wire to its line in the log.

A users server serves in this process, warmed up by calls before the one that is watched. What it imports, and what its
other threads do meanwhile, is left out.
"""

from __future__ import annotations

import io
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import grpc

from handfast.server.chassis.logs import log
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import eventually
from tests.project.commands import ROOT

WARM_UP = 20  # calls: threads are there, statements are compiled, handlers are known
_BESIDE = ("canceller", "log", "metrics", "readiness", "sweeper")  # threads that serve no call


def files_of_a_call() -> list[str]:
    """Paths below the root of the project, in the order in which the call came to them."""
    found: dict[str, None] = {}
    watching = threading.Event()

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and watching.is_set() and not threading.current_thread().name.startswith(_BESIDE):
            found.setdefault(frame.f_code.co_filename)

    threading.setprofile(watch)
    lines = io.BytesIO()
    writer = log.configure("users", "info", lines)
    with TemporaryDirectory() as folder:
        settings = SuiteSettings(
            name="users",
            listen="127.0.0.1:0",
            database_url=sqlite_url(Path(folder) / "users.sqlite3"),
            migrate=True,
            threads=1,
        )
        server = build(settings)
        server.start()
        try:
            with closing(grpc.insecure_channel(server.address)) as channel:
                users = UserServiceStub(channel)
                users.CreateUser(CreateUserRequest(user=User(user_id="ada", email="ada@example.com")))
                for number in range(WARM_UP + 1):
                    if number == WARM_UP:
                        watching.set()
                    users.GetUser(GetUserRequest(user_id="ada"), metadata=(("x-request-id", f"get-{number}"),))
                    assert eventually(partial(_is_logged, f"get-{number}".encode(), writer, lines))
                watching.clear()
        finally:
            server.stop()
    paths = [Path(name) for name in found if not name.startswith("<")]
    own = [ROOT / folder for folder in ("clients", "generated", "servers")]
    return [str(path.relative_to(ROOT)) for path in paths if any(path.is_relative_to(folder) for folder in own)]


def _is_logged(request_id: bytes, writer: LogWriter, lines: io.BytesIO) -> bool:
    writer.flush()
    return b'"%s"' % request_id in lines.getvalue()


if __name__ == "__main__":
    files = files_of_a_call()
    print(*files, sep="\n")
    sys.exit(0 if files else 1)
