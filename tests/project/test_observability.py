"""docs/observability.md says of logs what servers write."""

from __future__ import annotations

import json
import logging
import re
import uuid
from typing import Any

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import Suite
from handfast.server.chassis.logs.tracebacks import MAX_TRACEBACK
from handfast.server.chassis.logs.values import MAX_ELEMENTS, MAX_TEXT
from handfast.server.chassis.logs.writer import GO_NAMES, LEVELS
from handfast.users.v1.users_pb2 import GetUserRequest, User
from tests.calls import refusal
from tests.cli.processes import Process
from tests.eventually import eventually
from tests.people import new_email
from tests.project.readme import OBSERVABILITY, dangling_links, quoted, table

VOLATILE = ("timestamp", "grpc.time_ms", "peer")


def test_levels_are_those_of_the_code() -> None:
    rows = table(OBSERVABILITY, "level", "codes")
    shown = {code: level for levels, codes in rows for level in quoted(levels) for code in quoted(codes)}
    assert shown == {GO_NAMES[code]: logging.getLevelName(level).lower() for code, level in LEVELS.items()}


def test_limits_are_those_of_the_code() -> None:
    text = OBSERVABILITY.read_text()
    assert f"up to {MAX_TRACEBACK:,} characters" in text
    assert f"Texts longer than {MAX_TEXT} characters are cut, and of lists and dicts {MAX_ELEMENTS} elements" in text


def test_the_line_that_is_shown_is_what_a_call_leaves(running: Process, client: Suite) -> None:
    found = re.search(r"^```json\n(.+)\n```$", OBSERVABILITY.read_text(), re.MULTILINE)
    assert found is not None
    shown = json.loads(found[1])
    metadata = (("x-request-id", shown["request_id"]),)
    refusal(lambda request: client.users.GetUser(request, metadata=metadata), GetUserRequest(user_id="nobody"))
    written: list[dict[str, Any]] = []

    def look() -> bool:
        lines = [json.loads(line) for line in running.stderr.splitlines() if shown["request_id"] in line]
        written.extend(lines)
        return bool(lines)

    assert eventually(look)
    assert list(written[0]) == list(shown)
    for name, value in written[0].items():
        assert type(value) is type(shown[name])
        assert name in VOLATILE or value == shown[name]


def test_the_servers_that_a_traced_call_reaches_log_its_trace(running: Process, client: Suite) -> None:
    trace_id = uuid.uuid4().hex
    metadata = (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),)
    client.accounts.CreateAccount(CreateAccountRequest(user=User(email=new_email())), metadata=metadata)

    def have_logged() -> set[str]:
        lines = [json.loads(line) for line in running.stderr.splitlines() if trace_id in line]
        return {line["service"] for line in lines if line["trace_id"] == trace_id}

    assert eventually(lambda: have_logged() == {"users", "preferences", "accounts"}), have_logged()


def test_links_lead_somewhere() -> None:
    assert dangling_links(OBSERVABILITY) == []
