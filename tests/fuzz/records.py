"""The three records of a call: what its caller saw, its line in the log, and the counters in /metrics."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

from handfast.server.chassis.logs.writer import GO_NAMES
from tests.fuzz.calls import Call, Outcome

Counts = Counter[tuple[str, ...]]
_SAMPLE = re.compile(r"^grpc_server_(started|handled)_total\{(.*)\} (\S+)$", re.MULTILINE)
_MAX_NAME = 200
_UNIQUE = (32, 36)  # characters of ids that a server or this client made
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Seen:
    """What callers saw of each call whose request id nobody else used."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str, str], str] = {}
        """By server, request id and path."""
        self.endings: Counter[str] = Counter()

    def note(self, server: str, call: Call, outcome: Outcome) -> None:
        code = GO_NAMES[outcome.code]
        self.endings[code] += 1
        if len(outcome.request_id) in _UNIQUE:  # else it is one that other calls have, too
            self.codes[server, outcome.request_id, as_logged(call.path)] = code


def as_logged(path: str) -> str:
    """A path as the log has it: in two parts, neither too long."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return f"/{service[:_MAX_NAME]}/{method[:_MAX_NAME]}"


def lines_of(log: str) -> list[dict[str, Any]]:
    """Each line of the servers' logs. Raises AssertionError where one is no JSON object."""
    found = []
    for line in filter(None, log.split("\n")):
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            raise AssertionError(f"no JSON object: {line}") from None
    return found


def logged(lines: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[str]]:
    """The codes of the calls in the log, by server, request id and path."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in lines:
        if line["event"] == "call":
            path = f"/{line['grpc.service']}/{line['grpc.method']}"
            found.setdefault((line["service"], line["request_id"], path), []).append(line["grpc.code"])
    return found


def counted(metrics_urls: Mapping[str, str]) -> tuple[Counts, Counts]:
    """How many calls started, by server and method; and how many ended, by code also."""
    started, ended = Counts(), Counts()
    for server, url in metrics_urls.items():
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        for kind, labels, value in _SAMPLE.findall(text):
            named = dict(_LABEL.findall(labels))
            path = f"/{named['grpc_service']}/{named['grpc_method']}"
            if kind == "started":
                started[server, path] += int(float(value))
            else:
                ended[server, path, named["grpc_code"]] += int(float(value))
    return started, +ended
