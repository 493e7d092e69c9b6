"""grpcurl, as a person or a script uses it: it knows nothing of the contracts but what a server's reflection tells."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A call that failed, as grpcurl decodes it. `details` are by their type's last name, such as `ErrorInfo`."""

    code: int
    message: str
    details: dict[str, Json]


@dataclass(frozen=True)
class Grpcurl:
    path: Path

    def services(self, address: str) -> list[str]:
        return self._succeed(address, "list").split()

    def describe(self, address: str, symbol: str) -> str:
        return self._succeed(address, "describe", symbol)

    def call(self, address: str, method: str, request: Json, headers: Mapping[str, str] | None = None) -> Json:
        """The reply of a call that must succeed. `method` leaves out `handfast.`, as all the suite's begin so."""
        reply: Json = json.loads(self._succeed(*_arguments(request, headers), address, _full(method)))
        return reply

    def verbose(self, address: str, method: str, request: Json, headers: Mapping[str, str] | None = None) -> str:
        """All that grpcurl tells of a call that must succeed: headers, reply and trailers."""
        return self._succeed("-v", *_arguments(request, headers), address, _full(method))

    def refused(self, address: str, method: str, request: Json, headers: Mapping[str, str] | None = None) -> Refusal:
        """The error of a call that must fail."""
        done = self.run("-format-error", *_arguments(request, headers), address, _full(method))
        assert done.returncode > 64, (done.stdout, done.stderr)  # 64 and the gRPC code
        status = json.loads(done.stderr)
        assert done.returncode == 64 + status["code"]
        details: dict[str, Json] = {}
        for detail in status["details"]:
            name = detail.pop("@type").rpartition(".")[2]
            assert name not in details, f"{name} twice"
            details[name] = detail
        return Refusal(status["code"], status["message"], details)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [self.path, "-plaintext", "-connect-timeout", "10", "-max-time", "30", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def _succeed(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _arguments(request: Json, headers: Mapping[str, str] | None) -> list[str]:
    flags = ["-d", json.dumps(request)]
    for key, value in (headers or {}).items():
        flags += ["-H", f"{key}: {value}"]
    return flags


def _full(method: str) -> str:
    return method if method.startswith("grpc.") else f"handfast.{method}"
