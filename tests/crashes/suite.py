"""A suite that is killed: `handfast up` on one of the databases, a team's own server, and the database with them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from handfast import client
from handfast.server.chassis.crash_points import VARIABLE
from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from tests.cli.processes import CLEAN, Process, is_running
from tests.crashes.guarded import ROOT, Guarded
from tests.databases.postgresql import PostgreSQL, postgresql
from tests.eventually import eventually

SERVERS = ("users", "preferences", "accounts")
CREDITS = "credits"
POSTGRESQL = "postgresql"
DATABASES = ("sqlite", POSTGRESQL)
NOWHERE: Mapping[str, str] = MappingProxyType({})
_KILLED = re.compile(r'"service": ?"(\w+)".*"exit_code": ?-9')
_POINT = re.compile(r"^crash point (\S+)$", re.MULTILINE)


class Suite:
    """Its data, its ports and the file of its logs stay the same over any number of starts. `urls` are the variables
    that name databases which others look after.
    """

    def __init__(
        self, folder: Path, database: PostgreSQL | None, *, credits: bool, urls: Mapping[str, str] = NOWHERE
    ) -> None:
        self._folder, self.database = folder, database
        self._urls = database.create_databases() if database else urls
        self._first_port = free_first_port()
        self.errors = folder / "stderr"
        self._killed_by_hand: Counter[str] = Counter()
        self.process: Process
        self._credits = self._guarded_credits() if credits else None
        self.servers = (*SERVERS, CREDITS) if credits else SERVERS

    def _guarded_credits(self) -> Guarded:
        if self.database:
            self.database.execute(f"CREATE DATABASE {CREDITS}")
        url = self.database.url(CREDITS) if self.database else sqlite_url(self._folder / "credits.sqlite3")
        self._credits_address = f"127.0.0.1:{free_first_port()}"
        environment = {
            "HANDFAST_CREDITS_LISTEN": self._credits_address,
            "HANDFAST_CREDITS_DATABASE_URL": url,
            "HANDFAST_MIGRATE": "true",
            "HANDFAST_ACCOUNTS_ADDRESS": f"127.0.0.1:{self._first_port + SERVERS.index('accounts')}",
            "HANDFAST_LOG_LEVEL": "warning",
        }
        return Guarded("credits", environment, self.errors)

    def start(self, crash_at: str = "") -> None:
        """Returns once all serve. A server that dies at a point before that ends the suite, which is started again."""
        self.errors.touch()
        died = self.points()
        while not self._start(crash_at):
            if self.points() == died:
                raise RuntimeError(f"the suite does not start:\n{self.process.stderr[-2000:]}")
            died = self.points()
        if self._credits:
            self._credits.environment[VARIABLE] = crash_at
            if not self._credits.is_alive():
                self._credits.start()

    def _start(self, crash_at: str) -> bool:
        """Starts it once. Returns whether all serve; none runs otherwise."""
        arguments = ["--data-dir", str(self._folder / "data"), "--first-port", str(self._first_port)]
        if self._credits:
            arguments += ["--participant", f"{CREDITS}={self._credits_address}"]
        environment = {**CLEAN, **self._urls, VARIABLE: crash_at, "HANDFAST_LOG_LEVEL": "warning"}
        with self.errors.open("a") as stderr:
            popen = subprocess.Popen(
                [sys.executable, "-m", "tests.crashes.up", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.process = Process(popen, self.errors, self._first_port)
        serves = self.process.read_until("ready").endswith("ready\n")
        if not serves:
            with popen:
                popen.wait()
        return serves

    def connect(self, timeout: float) -> client.Suite:
        at = self.process.addresses
        others = {CREDITS: self._credits_address} if self._credits else None
        return client.connect(at["users"], at["preferences"], at["accounts"], participants=others, timeout=timeout)

    def kill(self, victim: str) -> None:
        """Kills PostgreSQL and starts it again, or a server, if it runs; the supervisor starts that again."""
        if victim == POSTGRESQL:
            assert self.database is not None
            self._killed_by_hand[POSTGRESQL] += 1
            self.database.kill_and_start()
            return
        if victim == CREDITS:
            assert self._credits is not None
            self._credits.kill()
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
            os.kill(self.process.servers()[victim], signal.SIGKILL)

    def wait_until_up(self) -> None:
        """Until all servers listen, or for as long as that should take."""
        addresses = [*self.process.addresses.values(), *([self._credits_address] if self._credits else [])]
        eventually(lambda: all(map(_listens, addresses)))

    def kill_all(self) -> None:
        """Kills the servers and who supervises them, all at the same moment."""
        supervisor = self.process.popen.pid
        os.kill(supervisor, signal.SIGSTOP)
        os.waitid(os.P_PID, supervisor, os.WSTOPPED)  # or it could start a server meanwhile
        servers = self.process.servers()
        os.kill(supervisor, signal.SIGKILL)
        if self._credits:
            self._credits.kill()
        for server, pid in servers.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._killed_by_hand[server if server in SERVERS else "nameless"] += 1  # too young, or dead already
        with self.process.popen as popen:
            popen.wait()
        while any(is_running(pid) for pid in servers.values()):
            time.sleep(0.01)

    def stop(self) -> None:
        if self._credits:
            self._credits.stop()
        if self.process.popen.poll() is not None:
            return
        with self.process.popen as popen:
            popen.terminate()
            popen.wait()

    def kills(self) -> Counter[str]:
        """How many processes were killed, by name."""
        of_credits = Counter({CREDITS: self._credits.kills} if self._credits else {})
        return self._killed_by_hand + of_credits + Counter(_KILLED.findall(self.errors.read_text()))

    def points(self) -> Counter[str]:
        """How many of them died at each named point."""
        return Counter(_POINT.findall(self.errors.read_text()))


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def suite(database: str, folder: Path, *, credits: bool = False) -> Iterator[Suite]:
    """A suite that has not been started, with the example's server if asked for; all is stopped at the end."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgresql()) if database == POSTGRESQL else None
        made = Suite(folder, server, credits=credits)
        stack.callback(made.stop)
        yield made
