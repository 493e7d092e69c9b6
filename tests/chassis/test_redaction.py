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
from google.protobuf import json_format, text_encoding, text_format
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_STRING, PreferenceDefinition, Preferences
from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.logs.redaction import REDACTED, PersonalData, redacted
from handfast.server.chassis.logs.tracebacks import MAX_TRACEBACK, described, in_short
from handfast.server.chassis.logs.values import MAX_ELEMENTS, MAX_TEXT, loggable
from handfast.server.chassis.logs.writer import LogWriter
from handfast.users.v1.users_pb2 import BatchGetUsersResponse, CreateUserRequest, UpdateUserRequest, User

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
        ([bytearray(b"ada"), memoryview(b"ad")], ["(3 bytes)", "(2 bytes)"]),
        ([{1}, frozenset({2}), (3, "x")], [[1], [2], [3, "x"]]),
        ({1: "one", None: 2}, {"1": "one", "None": 2}),
        ([Kind.LARGE, decimal.Decimal("1.50"), pathlib.Path("/etc")], ["Kind.LARGE", "1.50", "/etc"]),
        (Holder, "<builtins.type>"),
        ([-math.inf, math.nan], ["-inf", "nan"]),
        (ValueError(), "ValueError"),
        (ValueError("bad"), "bad"),
        (ValueError(ADA, 1), None),
        (object, "<builtins.type>"),
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
    assert loggable(list(range(MAX_ELEMENTS + 2)))[-2:] == [MAX_ELEMENTS - 1, "… 2 more"]
    assert loggable(dict.fromkeys(range(MAX_ELEMENTS + 2), 1))["…"] == "2 more"
    assert loggable(list(range(MAX_ELEMENTS))) == list(range(MAX_ELEMENTS))
    assert len(loggable(list(range(MAX_ELEMENTS + 2)))) == MAX_ELEMENTS + 1
    assert len(loggable(dict.fromkeys(range(MAX_ELEMENTS), 1))) == MAX_ELEMENTS
    assert len(loggable(dict.fromkeys(range(MAX_ELEMENTS + 2), 1))) == MAX_ELEMENTS + 1
    within: list[Any] = []
    within.append(within)
    assert json.dumps(loggable(within), ensure_ascii=False) == '[[[[[["…"]]]]]]'


# Texts


WRITTEN: list[Callable[[Message], str]] = [
    str,
    lambda message: repr([message]),
    lambda message: str(("x", str(message))),
    lambda message: text_format.MessageToString(message, as_utf8=False),
    lambda message: text_format.MessageToString(message, as_one_line=True),
    json_format.MessageToJson,
    lambda message: repr(json_format.MessageToDict(message)),
    lambda message: ascii(json_format.MessageToDict(message)),
    lambda message: json_format.MessageToJson(message, ensure_ascii=False).upper(),
    lambda message: json.dumps(repr(str(message))),
]


@pytest.mark.parametrize("write", WRITTEN)
def test_values_are_taken_out_of_a_text_however_they_were_written(write: Callable[[Message], str]) -> None:
    text = PersonalData([CreateUserRequest(user=ADA)]).removed_from(write(CreateUserRequest(user=ADA)))
    assert [secret for secret in SECRETS if secret.lower() in text.lower()] == []
    assert "u1" in text.lower()
    assert REDACTED in text


@pytest.mark.parametrize(
    ("message", "text", "left"),
    [
        (User(user_id="ada", display_name="Ada"), "There is no user ada.", "There is no user ada."),
        (User(display_name="email"), "no email", "no email"),
        (User(display_name="A"), "A user", "A user"),
        (User(display_name="Al"), "Also Al: al", f"Also {REDACTED}: {REDACTED}"),
        (User(display_name="Anna"), "of ANNAbel", f"of {REDACTED}bel"),
        (User(email="a@b.example", display_name="b.example"), "a@b.example", REDACTED),
        (Preferences(values={"n": Value(number_value=4711)}), "4711.0 4711", f"{REDACTED}.0 {REDACTED}"),
        (Preferences(values={"n": Value(bool_value=True)}), "True", "True"),
        (
            UpdateUserRequest(update_mask=FieldMask(paths=["email", "labels.lover"])),
            "email labels.lover",
            f"email {REDACTED}",
        ),
        (User(), "all of it", "all of it"),
        (User(display_name="Zoë\nZ."), "in notes: zoë", f"in notes: {REDACTED}"),
    ],
)
def test_only_what_tells_something_is_taken_out(message: Message, text: str, left: str) -> None:
    assert PersonalData([message]).removed_from(text) == left


def test_where_looking_would_take_long_nothing_is_left() -> None:
    many = Preferences(values={f"key_{number}": Value(string_value=f"value {number}") for number in range(256)})
    assert PersonalData([many]).removed_from("x" * 1_000_000) == REDACTED


def test_a_request_with_more_values_than_are_looked_for_leaves_nothing() -> None:
    personal = PersonalData([User(labels={f"key_{number}": f"value {number}" for number in range(100_000)})])
    assert personal.removed_from("a user") == REDACTED
    assert personal.and_of([]).removed_from("a user") == REDACTED
    assert PersonalData([]).and_of([User(labels={"a": "b"})] * 100_000).removed_from("a user") == "a user"


ESCAPES: list[Callable[[str], str]] = [
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: text_encoding.CEscape(text.encode(), True),
    lambda text: text_encoding.CEscape(text.encode(), False),
]


@given(
    st.text("\\aZ_\"'\n\t\x01\x7fé\xa0\u2028Σς😀\U000a1234ux03", max_size=12).map(lambda text: f"Q{text}w19"),
    st.lists(st.sampled_from(ESCAPES), max_size=4),
)
def test_a_value_is_found_however_often_it_was_escaped(value: str, escapes: list[Callable[[str], str]]) -> None:
    text = value
    for escape in escapes:
        text = escape(text)
    personal = PersonalData([User(display_name=value)])
    assert personal.removed_from(f"before <{text}> after") == f"before <{REDACTED}> after"
    assert personal.removed_from(f"<{text.lower()}> \\").startswith(f"<{REDACTED}>")


@pytest.mark.parametrize("word", ["nancy", "x41", "123 456", "ancy"])
def test_a_value_is_found_behind_a_backslash(word: str) -> None:
    assert PersonalData([User(display_name=word)]).removed_from(rf"of OFFICE\{word}.") == rf"of OFFICE\{REDACTED}."


LONG = 1_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("\\" * 60 + "a", "\\" * 120),
        ("\\" * 60, "a" + "\\" * 59 + "b"),
        ("\\" * LONG, "\\" * 200_000),
        ("\\" * LONG + "a", "\\n" * 1000),
        ("é" * LONG, "é" * 1000),
        ("😀" * LONG, r"\ud83d\ude00" * 1000),
        (r"\303" * 1000 + "é", r"\303" * 1000),
    ],
    ids=range(7),
)
def test_looking_for_a_value_ends_where_it_is_not(value: str, text: str) -> None:
    assert PersonalData([User(email=value)]).removed_from(text) == text


@pytest.mark.parametrize("value", ["\\" * 60, "\\" * 60 + "a", "é" * 20_000, "\\é\n" * 10_000], ids=range(4))
def test_a_value_is_found_however_long_it_is(value: str) -> None:
    personal = PersonalData([User(email=value)])
    assert personal.removed_from(f"<{value}>") == f"<{REDACTED}>"
    assert personal.removed_from(f"<{json.dumps(value)[1:-1]}>").replace("\\", "") == f"<{REDACTED}>"


@pytest.mark.parametrize("value", ["\\" * LONG, "é" * LONG], ids=range(2))
def test_of_a_text_with_a_value_of_a_megabyte_nothing_is_left(value: str) -> None:
    assert PersonalData([User(email=value)]).removed_from(f"<{value}>") == REDACTED


def test_what_a_request_has_is_gathered_once() -> None:
    call = Call.received(Method("/", "", "", "unary", "", Pool("p", 1)), "/", ())
    assert call.personal_data() is None
    call.request = ADA
    assert call.personal_data() is call.personal_data()
    first, call.request = call.personal_data(), User()
    assert call.personal_data() is not first


# Exceptions


def stored() -> None:
    """Fails over what no request has."""
    found = [{"user": ADA}]
    raise KeyError(found[0]["user"].email)


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
    assert 'raise KeyError(found[0]["user"].email)' in text
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


def test_what_ends_a_thread_is_logged(monkeypatch: pytest.MonkeyPatch, log: io.BytesIO, writer: LogWriter) -> None:
    monkeypatch.setattr(threading, "excepthook", logs.log_end_of_thread)
    thread = threading.Thread(target=stored, name="worker")
    thread.start()
    thread.join()
    writer.flush()
    (line,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "a thread ended"]
    assert (line["level"], line["thread"]) == ("critical", "worker")
    assert f"KeyError: '{REDACTED}'" in line["exception"]
