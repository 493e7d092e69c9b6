"""No value of a field with personal data comes out of a server but in the replies to its callers: not in the log at its
most talkative, whatever handlers do with a request, nor in metrics, traces or errors.
"""

from __future__ import annotations

import logging

from handfast.client import ServiceError
from handfast.server.chassis.logs.redaction import REDACTED
from handfast.server.chassis.logs.writer import GO_NAMES, LEVELS
from tests.project.readme import OBSERVABILITY, quoted, table
from tests.redaction.calls import METHODS, QUOTING, Printed
from tests.redaction.contracts import marked_fields
from tests.redaction.samples import VALID


def found(texts: list[str], where: str) -> list[str]:
    """Those of `texts` that `where` has, in upper or lower case, or in hexadecimal as PostgreSQL prints bytes."""
    lower = where.lower()
    return [text for text in texts if text.lower() in lower or text.encode().hex() in lower]


def test_a_field_with_personal_data_is_not_printed(printed: Printed) -> None:
    for sent in printed.calls:
        everywhere = printed.log + printed.metrics + printed.traces
        assert found(sent.sample.values + sent.sample.keys, everywhere) == [], sent


def test_an_error_quotes_no_value(printed: Printed) -> None:
    for sent in printed.calls:
        if sent.error is not None and sent.way != QUOTING:
            assert found(sent.sample.values, everything(sent.error)) == [], sent
            # Of a map, the field at fault is named by its key; nothing else has it.
            assert found(sent.sample.keys, f"{sent.error.reason} {sent.error.metadata}") == [], sent


def everything(error: ServiceError) -> str:
    whole = "" if error.status_proto is None else error.status_proto.SerializeToString().decode(errors="replace")
    return f"{error.message} {error.violations} {error.trailing_metadata()} {error.initial_metadata()} {whole}"


def test_each_call_is_in_the_log_that_was_looked_at(printed: Printed) -> None:
    lines = {(line["request_id"], line["grpc.method"]): line for line in printed.lines if line["event"] == "call"}
    assert len(printed.calls) >= 7 * len(METHODS)
    for sent in printed.calls:
        line, level = lines[sent.request_id, sent.method], logging.getLevelName(LEVELS[sent.code]).lower()
        assert (line["grpc.code"], line["level"]) == (GO_NAMES[sent.code], level)


def test_each_call_is_in_the_traces_that_were_looked_at(printed: Printed) -> None:
    served = [span.name.rpartition("/")[2] for span in printed.spans if span.kind == "SERVER"]
    for method in METHODS:
        assert served.count(method.name) >= sum(sent.method == method.name for sent in printed.calls)


def test_what_is_withheld_was_there(printed: Printed) -> None:
    events = [line["event"] for line in printed.lines]
    for event in ("asked", "failed", "a thread ended"):
        assert events.count(event) >= len(METHODS)
    tracebacks = [line["exception"] for line in printed.lines if "cannot handle" in line.get("exception", "")]
    assert len(tracebacks) >= 2 * len(METHODS)
    assert all(REDACTED in text for text in tracebacks)
    # PostgreSQL quotes the row that it refuses, in a line of its own.
    assert any("refused" in line.get("error.cause", "") for line in printed.lines)


def test_each_field_has_a_value_that_is_valid() -> None:
    marked = {field.full_name for method in METHODS for field in marked_fields(method.input_type)}
    assert {f"handfast.{name}" for name in VALID} == marked


def test_the_fields_of_a_line_are_those_that_are_documented(printed: Printed) -> None:
    documented = [name for row in table(OBSERVABILITY, "field", "type", "there", "says") for name in quoted(row[0])]
    logged = {name for line in printed.lines if line["event"] == "call" for name in line}
    # No error here is that large, and nobody is asked who calls.
    of_others = {"error.cut", "on_behalf_of", "would_refuse", "would_refuse.message"}
    assert logged | of_others == set(documented)


def test_every_line_has_what_lines_have_in_common(printed: Printed) -> None:
    assert [line for line in printed.lines if not line.keys() >= {"timestamp", "level", "event", "service"}] == []
