"""A database whose reads and local transactions are spans, by the semantic conventions for SQL
(https://opentelemetry.io/docs/specs/semconv/db/sql/). They tell no statement, of a file no more than its name, and not
by which user the database is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from handfast.client.tracing.attributes import SERVER_ADDRESS, SERVER_PORT
from handfast.client.tracing.spans import error_type, fail, tracer
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.tracing.recorder import Block
from handfast.server.process.settings import sqlite_file

NAME = "db.namespace"
POSTGRESQL_PORT = 5432
Result = TypeVar("Result")


class TracedDatabase(Database):
    """Where nothing is recorded there is no span: in calls of which none is, and in the background."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._tracer, self._attributes = tracer("handfast.server"), _attributes(url)
        # SQLite runs in this process.
        self._kind = SpanKind.CLIENT if SERVER_ADDRESS in self._attributes else SpanKind.INTERNAL

    def read(self) -> AbstractContextManager[sa.Connection]:  # type: ignore[override]  # of which nobody asks for more
        return self._traced_read() if trace.get_current_span().is_recording() else super().read()

    @contextmanager
    def _traced_read(self) -> Iterator[sa.Connection]:
        with self._span("SELECT"), super().read() as connection:
            yield connection

    def _try_to_write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        if not trace.get_current_span().is_recording():
            return super()._try_to_write(work, one_statement)
        with self._span("TRANSACTION"):
            return super()._try_to_write(work, one_statement)

    def _span(self, operation: str) -> Block:
        name, attributes = f"{operation} {self._attributes[NAME]}", {**self._attributes, "db.operation.name": operation}
        return _Block(self._tracer.start_span(name, None, self._kind, attributes))


class _Block(Block):
    """What else a work raises, such as that it has to wait for another transaction, is no failure of the database."""

    def note(self, error: BaseException) -> None:
        if isinstance(error, DBAPIError):
            state = getattr(error.orig, "sqlstate", None)
            if state is not None:
                self.span.set_attribute("db.response.status_code", state)
            fail(self.span, state or type(error.orig).__qualname__)
        elif isinstance(error, NoConnection):
            fail(self.span, error_type(error))


def _attributes(url: str) -> dict[str, str | int]:
    if url.startswith("sqlite"):
        return {"db.system.name": "sqlite", NAME: sqlite_file(url).name}
    parsed = sa.make_url(url)
    host = parsed.host or ",".join(parsed.normalized_query.get("host", ())) or "localhost"
    port = (
        {} if host.startswith("/") else {SERVER_PORT: parsed.port or POSTGRESQL_PORT}
    )  # the path of a socket has none
    return {"db.system.name": "postgresql", NAME: parsed.database or "", SERVER_ADDRESS: host, **port}
