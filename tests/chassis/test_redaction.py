"""Of messages, and of texts that messages got into, nothing is printed that contracts mark as personal data."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import json
import logging
import math
import pathlib
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from google.protobuf import json_format, text_format
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_STRING, PreferenceDefinition, Preferences
from handfast.server.chassis.call import current
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.logs.redaction import REDACTED, PersonalData, redacted
from handfast.server.chassis.logs.tracebacks import MAX_TRACEBACK, described, in_short
from handfast.server.chassis.logs.values import MAX_ELEMENTS, MAX_TEXT, loggable
from handfast.server.chassis.logs.writer import LogWriter
from handfast.users.v1.users_pb2 import (
    BatchGetUsersResponse,
    CreateUserRequest,
    GetUserResponse,
    UpdateUserRequest,
    User,
)

from .conftest import Running

ADA = User(
    user_id="u1",
    email="ada@example.com",
    display_name='Zoë "Z"\n\t\\ \U0001f600',
    labels={"shoe": "size 36"},
    etag="e1",
)
SHOWN = {"user_id": "u1", "email": REDACTED, "display_name": REDACTED, "labels": REDACTED, "etag": "e1"}
SECRETS = ("ada@", "example", "Zo", "shoe", "size 36")


# Messages


def test_a_message_is_shown_without_what_is_marked() -> None:
    assert redacted(ADA) == SHOWN
    assert redacted(CreateUserRequest(user=ADA, request_id="r")) == {"user": SHOWN, "request_id": "r"}
    assert redacted(BatchGetUsersResponse(users=[ADA, User(user_id="u2")])) == {"users": [SHOWN, {"user_id": "u2"}]}
    assert redacted(UpdateUserRequest(update_mask=FieldMask(paths=["labels.shoe"]))) == {"update_mask": REDACTED}


def test_what_is_not_marked_is_shown_whatever_its_type() -> None:
    preferences = Preferences(
        user_id="u1", values={"a": Value(string_value="x")}, defaults={"b": Value(number_value=2)}
    )
    assert redacted(preferences) == {"user_id": "u1", "values": REDACTED, "defaults": {"b": {"number_value": 2.0}}}
    definition = PreferenceDefinition(key="k", type=PREFERENCE_TYPE_STRING, allowed_values=[Value(bool_value=True)])
    definition.create_time.seconds = 5
    assert redacted(definition) == {
        "key": "k",
        "type": "PREFERENCE_TYPE_STRING",
        "allowed_values": [{"bool_value": True}],
        "create_time": {"seconds": 5},
    }
    assert redacted(PreferenceDefinition(type=77)) == {"type": 77}  # type: ignore[arg-type]  # of a newer contract


def test_what_is_packed_into_bytes_is_not_shown() -> None:
    packed = Packed()
    packed.Pack(ADA)
    assert redacted(packed) == {
        "type_url": "type.googleapis.com/handfast.users.v1.User",
        "value": f"({ADA.ByteSize()} bytes)",
    }


# Values in the log


@dataclasses.dataclass
class Holder:
    user: User
    secret: str = dataclasses.field(default="hunter2", repr=False)


class Kind(enum.Enum):
    LARGE = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (ADA, SHOWN),
        ([ADA, (ADA,)], [SHOWN, [SHOWN]]),
        ({"one": {"two": [ADA]}}, {"one": {"two": [SHOWN]}}),
        (Holder(ADA), {"user": SHOWN}),
        (ADA.labels, "<google._upb._message.ScalarMapContainer>"),
        (b"ada", "(3 bytes)"),
        pytest.param([bytearray(b"ada"), memoryview(b"ad")], ["(3 bytes)", "(2 bytes)"], id="buffers"),
        ([{1}, frozenset({2}), (3, "x")], [[1], [2], [3, "x"]]),
        ({1: "one", None: 2}, {"1": "one", "None": 2}),
        ([Kind.LARGE, decimal.Decimal("1.50"), pathlib.Path("/etc")], ["Kind.LARGE", "1.50", "/etc"]),
        ([Holder, -math.inf, math.nan], ["<builtins.type>", "-inf", "nan"]),
        (ValueError(), "ValueError"),
        (ValueError("bad"), "bad"),
        (ValueError(ADA, 1), None),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (datetime.timedelta(seconds=1), "0:00:01"),
        ([1, 2.5, True, None, math.inf], [1, 2.5, True, None, "inf"]),
    ],
    ids=str,
)
def test_a_value_is_logged_without_personal_data(value: Any, shown: Any) -> None:
    found = loggable(value)
    assert shown is None or found == shown
    assert [secret for secret in SECRETS if secret in json.dumps(found, ensure_ascii=False)] == []


def test_what_is_long_is_cut() -> None:
    assert loggable("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert loggable("x" * (MAX_TEXT + 1)) == "x" * (MAX_TEXT - 1) + "…"
    assert loggable(list(range(MAX_ELEMENTS))) == list(range(MAX_ELEMENTS))
    assert loggable(list(range(MAX_ELEMENTS + 2))) == [*range(MAX_ELEMENTS), "… 2 more"]
    numbers = {str(number): number for number in range(MAX_ELEMENTS + 2)}
    assert loggable(numbers) == {name: n for name, n in numbers.items() if n < MAX_ELEMENTS} | {"…": "2 more"}
    within: list[Any] = []
    within.append(within)
    assert json.dumps(loggable(within), ensure_ascii=False) == '[[[[[["…"]]]]]]'


# Texts


WRITTEN: list[Callable[[Message], str]] = [
    str,
    lambda message: repr([message]),
    lambda message: str(("x", str(message))),  # one within another, as exceptions have it
    lambda message: json.dumps({"x": str(message)}),
    lambda message: text_format.MessageToString(message, as_utf8=False),
    lambda message: text_format.MessageToString(message, as_one_line=True),
    json_format.MessageToJson,
    lambda message: repr(json_format.MessageToDict(message)),
    lambda message: json_format.MessageToJson(message, ensure_ascii=False).upper(),
]


@pytest.mark.parametrize("write", WRITTEN)
def test_values_are_taken_out_of_a_text_as_they_are_and_as_python_json_and_protobuf_write_them(
    write: Callable[[Message], str],
) -> None:
    text = PersonalData([CreateUserRequest(user=ADA)]).removed_from(write(CreateUserRequest(user=ADA)))
    assert [secret for secret in SECRETS if secret.lower() in text.lower()] == []
    assert "u1" in text.lower()


@pytest.mark.parametrize(
    ("message", "text", "left"),
    [
        (User(user_id="ada", display_name="Ada"), "There is no user ada.", "There is no user ada."),
        (User(display_name="email"), "no email", "no email"),
        (User(display_name="A"), "A user", "A user"),
        (User(display_name="Al"), "Also Al: al", f"Also {REDACTED}: {REDACTED}"),
        (User(display_name="Anna"), "of ANNAbel", f"of {REDACTED}bel"),
        (User(email="a@b.example", display_name="b.example"), "a@b.example", REDACTED),
        (User(display_name="nancy"), r"OFFICE\nancy", rf"OFFICE\{REDACTED}"),
        (Preferences(values={"n": Value(number_value=4711)}), "4711.0 4711", f"{REDACTED}.0 {REDACTED}"),
        (Preferences(values={"n": Value(bool_value=True)}), "True", "True"),
        (UpdateUserRequest(update_mask=FieldMask(paths=["email", "labels.a"])), "email labels.a", f"email {REDACTED}"),
        (User(), "all of it", "all of it"),
        (User(display_name="Zoë\nZ."), "in notes: zoë", f"in notes: {REDACTED}"),
        (User(display_name="Zoë " * 1000), f"<{'Zoë ' * 1000}>", f"<{REDACTED}>"),
    ],
)
def test_only_what_tells_something_is_taken_out(message: Message, text: str, left: str) -> None:
    assert PersonalData([message]).removed_from(text) == left


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (User(labels={f"key_{number}": "value" for number in range(10_000)}), "a user"),
        (User(email="\\" * 1_000_000), "a user"),
        (Preferences(values={f"key_{n}": Value(string_value=f"value {n}") for n in range(256)}), "x" * 1_000_000),
    ],
    ids=["many values", "long values", "a long text"],
)
def test_where_looking_would_take_long_nothing_is_left(message: Message, text: str) -> None:
    assert PersonalData([message]).removed_from(text) == REDACTED


# Exceptions


def stored() -> None:
    """Fails over what no request has."""
    user = ADA
    raise KeyError(user.email)


def with_causes() -> None:
    try:
        stored()
    except KeyError as error:
        email = str(error)
        failure = ValueError(f"of {email}")
        failure.add_note(f"noted: {email}")
        raise failure from ExceptionGroup(f"some of {email}", [error, OSError(email.upper())])


@pytest.mark.parametrize("fail", [stored, with_causes])
def test_an_exception_is_described_without_the_values_of_messages_along_its_traceback(fail: Callable[[], None]) -> None:
    with pytest.raises((KeyError, ValueError)) as caught:
        fail()
    text = described(caught.value)
    assert "ada@example.com" not in text.lower()
    assert "raise KeyError(user.email)" in text
    assert f"KeyError: '{REDACTED}'" in text
    assert REDACTED in in_short(caught.value)


def test_an_exception_that_is_its_own_cause_is_described() -> None:
    error = ValueError("round")
    error.__cause__ = OSError("and round")
    error.__cause__.__context__ = error
    assert "and round" in described(error)


def test_a_long_traceback_keeps_both_ends() -> None:
    text = described(ValueError("from here " + "x" * (2 * MAX_TRACEBACK) + " to here"))
    assert len(text) < MAX_TRACEBACK + 100
    assert text.startswith("ValueError: from here")
    assert text.endswith("to here\n")
    left_out = len("ValueError: from here  to here\n") + MAX_TRACEBACK
    assert f"\n… {left_out} characters left out …\n" in text
    rest = len("ValueError: \n")
    assert "left out" not in described(ValueError("x" * (MAX_TRACEBACK - rest)))
    assert "… 1 characters left out …" in described(ValueError("x" * (MAX_TRACEBACK - rest + 1)))


# The log


def test_the_log_has_no_personal_data_of_the_request_whatever_a_handler_logs(running: Running) -> None:
    def behavior(request: Any, _context: Any) -> None:
        request.user_id = "u9"  # and has no field that is marked, so:
        structlog.get_logger().info("see", user=ADA, users=[ADA])
        logging.getLogger("library").warning("see %s and %d", ADA, 5)
        logging.getLogger("library").warning("see %(user)s", {"user": ADA})
        logging.getLogger("library").warning(ADA)
        raise ValueError(ADA)

    failure = running.failure(behavior)
    running.call_log(failure.request_id)
    lines = running.log_lines(failure.request_id)
    assert len(lines) == 5
    text = json.dumps(lines, ensure_ascii=False)
    assert [secret for secret in SECRETS if secret in text] == []
    assert lines[0]["users"] == [SHOWN]
    assert f"'email': '{REDACTED}'" in lines[1]["event"]
    assert lines[1]["event"].endswith(" and 5")


def test_a_call_that_is_ok_looks_for_no_personal_data(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def behavior(request: Any, _context: Any) -> GetUserResponse:
        current().log["transaction_id"] = "t1"
        return GetUserResponse(user=ADA)

    for name in ("__init__", "removed_from"):
        monkeypatch.setattr(PersonalData, name, lambda *_, name=name: looked.append(name))
    running.get_user(behavior, metadata=(("x-request-id", "costs-nothing"),))
    assert running.call_log("costs-nothing")["transaction_id"] == "t1"
    assert looked == []


def test_what_ends_a_thread_is_logged(monkeypatch: pytest.MonkeyPatch, log: io.BytesIO, writer: LogWriter) -> None:
    monkeypatch.setattr(threading, "excepthook", logs.log_end_of_thread)
    thread = threading.Thread(target=stored, name="worker")
    thread.start()
    thread.join()
    writer.flush()
    (line,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "a thread ended"]
    assert (line["level"], line["thread"]) == ("critical", "worker")
    assert f"KeyError: '{REDACTED}'" in line["exception"]
