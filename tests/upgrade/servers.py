"""Servers of either version, each a process of its own, all on the databases of one PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from handfast.client import TLS
from handfast.server.cli.dev.folder import CLIENT, make
from tests.cli.processes import CLEAN
from tests.eventually import eventually
from tests.replicas.servers import NAMES, Server

SCOPES = (
    *("users.read", "users.write", "preferences.read", "preferences.write", "preferences.define"),
    *("transactions.run", "transactions.operate", "branches.read", "branches.write"),
)
"""What the load needs."""
TOKEN_S = 24 * 3600
ROUND_S = 60.0
"""Within which a round has been through, on a busy machine."""


@dataclass(frozen=True)
class Version:
    """`path` is the PYTHONPATH by which a process has its code; empty for this one."""

    name: str
    path: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return CLEAN | {"PYTHONPATH": self.path}


class Access:
    """Certificates and tokens, by which servers know each other and the clients."""

    def __init__(self, folder: Path) -> None:
        self._credentials = make(folder)
        self._token = folder / "load.token"
        self._token.touch(mode=0o600)
        self._token.write_text(self._credentials.issue("load", SCOPES, TOKEN_S))
        files = (self._credentials.ca, self._credentials.key(CLIENT), self._credentials.certificate(CLIENT))
        self.of_channels = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))

    def of_server(self, name: str) -> dict[str, str]:
        return self._credentials.of_server(name)

    @property
    def of_client(self) -> dict[str, str]:
        return self._credentials.of_client() | {"HANDFAST_TOKEN_FILE": str(self._token)}

    @property
    def of_suite(self) -> dict[str, Any]:
        """What `connect` is given."""
        tls = TLS(self._credentials.ca, self._credentials.certificate(CLIENT), self._credentials.key(CLIENT))
        return {"tls": tls, "token": self._token.read_text()}


class Servers:
    """One server of each kind, of one version. They call each other, or those at `peers`. Their logs are in `folder`,
    which is made."""

    def __init__(
        self,
        version: Version,
        addresses: Mapping[str, str],
        peers: Mapping[str, str],
        databases: Mapping[str, str],
        folder: Path,
        access: Access | None,
        *,
        migrate: bool = False,
    ) -> None:
        self.version = version
        folder.mkdir()
        environment = {**version.environment, **databases, "HANDFAST_GRACE": "5"}
        environment |= {f"HANDFAST_{name.upper()}_ADDRESS": peers[name] for name in NAMES}
        environment |= {"HANDFAST_MIGRATE": "true"} if migrate else {}
        credentials = access.of_channels if access else None
        self.servers = [
            Server(name, addresses[name], each, folder / f"{name}.log", credentials)
            for name in NAMES
            for each in [environment | access.of_server(name) if access else environment]
        ]

    def calls(self) -> list[dict[str, str]]:
        """The lines of their logs for calls."""
        return [call for each in self.servers for call in each.calls()]


@dataclass(frozen=True)
class Told:
    """What a client has seen, over all."""

    rounds: int
    increments: int
    failures: Mapping[str, int]
    repeated: Mapping[str, int]


class Client:
    """A process of `load.py` with the client of one version. Each of the suites that it calls is the addresses of its
    servers."""

    def __init__(self, version: Version, suites: list[Mapping[str, str]], log: Path, access: Access | None) -> None:
        self._log = log
        arguments = [",".join(suite[name] for name in NAMES) for suite in suites]
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("load.py")), *arguments],
                env=version.environment | (access.of_client if access else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._told: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_rounds(self, number: int) -> None:
        """Until each of its suites has been through so many rounds of all calls that began after this was asked."""
        until = len(self._told) + 1 + number
        eventually(lambda: len(self._told) >= until or not self._reader.is_alive(), ROUND_S * number)
        if len(self._told) < until:
            raise RuntimeError(f"the client makes no calls any more:\n{self._log.read_text()}")

    def end(self) -> Told:
        """What it has seen."""
        assert self._process.stdin
        self._process.stdin.close()
        self._reader.join(ROUND_S)
        if not self._told or not self._told[-1].startswith("{"):
            raise RuntimeError(f"the client has ended:\n{self._log.read_text()}")
        return Told(**json.loads(self._told[-1]))

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._told.append(line)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
