"""Runs statements on one connection to PostgreSQL in as few round trips as there can be."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import psycopg
import structlog
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import InvalidSqlStatementName
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.chassis.data.backend import GIVE_UP_AFTER_S
from handfast.server.chassis.data.postgresql_connection import AnsweringConnection, Waiting
from handfast.server.chassis.logs.tracebacks import in_one_line

CANCEL_TIMEOUT_S = 1.0
ROLLBACK_TIMEOUT_S = 5.0

_log = structlog.get_logger()
_Message = tuple[str, Sequence[Any], tuple[int, ...], Sequence[Any]]
"""A statement with its parameters, converted: their bytes, types and formats."""


class _Stale(psycopg.errors.SerializationFailure):
    """A statement is no longer there as it was prepared: a table has changed, or somebody has deallocated it. It was
    not executed, so its local transaction is to be run again, as one that lost to another."""


class PostgresqlSession:
    """A `Session`. BEGIN and what is `sent` travel with the next statement that somebody waits for, or with COMMIT.
    Before `begin`, each statement commits by itself, and what is sent is not held back. `pooled` says that a pooler is
    in between.

    Values are converted by psycopg, but it is libpq that is told what to do, in its pipeline mode: of psycopg's own
    pipelines each statement is a write to the network, for which the database wakes up.
    """

    def __init__(self, driver: AnsweringConnection) -> None:
        """`configure` is to be called before `begin`. Until then it takes it that there is a pooler."""
        self._driver, self._pgconn = driver, driver.pgconn
        self._values = Transformer(driver)
        self._begin: list[_Message] = []
        self.pooled = self.may_cancel = True
        self._begun = self._stale = self._unreplicated = False
        self._unsent: list[_Message] = []
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = itertools.count()
        driver.add_notice_handler(self._notice)

    def configure(self, pooled: bool, begin: Sequence[str]) -> None:
        self.pooled, self._begin = pooled, [self._message(sql) for sql in begin]

    def begin(self) -> None:
        self._unsent = self._begin.copy()

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        result = self._execute(sql, parameters)
        self._values.set_pgresult(result)
        return self._values.load_rows(0, result.ntuples, tuple)

    def count(self, sql: str, parameters: Sequence[Any]) -> int:
        return self._execute(sql, parameters).command_tuples or 0

    def send(self, sql: str, each: Sequence[Sequence[Any]]) -> None:
        alone = not (self._unsent or self._begun)
        self._unsent += [self._message(sql, parameters) for parameters in each]
        if alone:
            self._round_trip()

    def flush(self) -> None:
        """Sends what is unsent."""
        self._check()
        if self._unsent:
            self._round_trip()

    def commit(self) -> None:
        """Raises also where the work hid an error, after which PostgreSQL only rolls back."""
        if self._unsent == self._begin:  # nothing was done
            self._unsent.clear()
            return
        if self._pgconn.transaction_status == TransactionStatus.INERROR:
            raise psycopg.errors.InFailedSqlTransaction("the transaction has failed")
        self._execute("COMMIT")
        self._begun = False

    def check_replicated(self) -> None:
        """Raises where a commit did not wait until its standby had it. Then it is unknown whether it lasts."""
        if self._unreplicated:
            raise psycopg.OperationalError("the wait for the synchronous standby was cancelled")

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """For a commit, which is not cancelled, as PostgreSQL would then not wait for its standby. Where it is still
        under way GIVE_UP_AFTER_S after the end of its call, nobody waits for it any more: raises NoAnswer."""
        give_up_at: float | None = None

        def wake() -> None:
            nonlocal give_up_at
            now = time.monotonic()
            give_up_at = give_up_at or now + GIVE_UP_AFTER_S
            if now >= give_up_at and not self._driver.given_up:
                self._driver.given_up = True
                _shut_down(self._driver)

        with cancel_scope(wake):
            yield

    def roll_back(self) -> None:
        """Where that fails, the connection is not idle, and so not used again."""
        self._unsent.clear()
        self._begun = False
        pgconn = self._pgconn
        if pgconn.transaction_status != TransactionStatus.IDLE and pgconn.pipeline_status == PipelineStatus.OFF:
            with suppress(psycopg.Error):
                pgconn.enter_pipeline_mode()
                pgconn.send_query_params(b"ROLLBACK", None)
                pgconn.pipeline_sync()
                self._driver.wait_at_most(ROLLBACK_TIMEOUT_S, _collect(pgconn, []))
                pgconn.exit_pipeline_mode()

    def cancel_scope(self) -> AbstractContextManager[None]:
        if self.may_cancel:
            return cancellable(self._driver)
        check_active()
        return nullcontext()

    @contextmanager
    def durable(self) -> Iterator[None]:
        """To lock a row is a write: its commit waits until the standby has all that was written before."""
        if self.pooled:
            self.begin()
        yield
        if self.pooled:
            self.commit()
        self.check_replicated()

    def reset(self) -> bool:
        """Whether it is in no transaction, alive as far as is known, and has what it has prepared. It may have been
        answered in the moment in which it was shut down."""
        pgconn = self._pgconn
        self.may_cancel = True
        idle = pgconn.transaction_status == TransactionStatus.IDLE
        usable = not (self._stale or self._unreplicated or self._driver.is_shut_down)
        return idle and pgconn.pipeline_status == PipelineStatus.OFF and usable

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # The message may be in any language. Of the same SQLSTATE, 01000, are warnings of which nothing follows.
        if notice.source_function == "SyncRepWaitForLSN":
            self._unreplicated = True

    def _message(self, sql: str, parameters: Sequence[Any] = ()) -> _Message:
        values = self._values
        dumped = values.dump_sequence(list(parameters), [PyFormat.AUTO] * len(parameters))
        return sql, dumped, values.types or (), values.formats or []

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> PGresult:
        message = self._message(sql, parameters)
        self._unsent.append(message)
        try:
            return self._round_trip()[-1]
        except _Stale:
            if self._begun:
                raise
            self._unsent.append(message)
            return self._round_trip()[-1]

    def _check(self) -> None:
        """What follows where BEGIN failed, or the work ended its transaction, would commit by itself."""
        if self._begun and self._pgconn.transaction_status == TransactionStatus.IDLE:
            raise psycopg.errors.InFailedSqlTransaction("the local transaction has ended, and its work went on")

    def _round_trip(self) -> list[PGresult]:
        """Sends what is unsent, and returns the results. Raises the first error, after which PostgreSQL skips the rest.
        Where the connection fails it stays in pipeline mode, and so is not used again."""
        self._check()
        unsent, self._unsent = self._unsent, []
        self._begun |= bool(self._begin) and unsent[0] is self._begin[0]
        self._pgconn.enter_pipeline_mode()
        known = len(self._prepared)
        for message in unsent:
            self._put(*message)
        self._pgconn.pipeline_sync()
        results: list[PGresult] = []
        error: psycopg.Error | None = None
        try:
            self._driver.wait(_collect(self._pgconn, results))
            self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError as lost:
            error = lost
        failed = next((each for each in results if each.status == ExecStatus.FATAL_ERROR), None)
        if failed is not None:
            done = sum(each.status == ExecStatus.COMMAND_OK and not each.command_status for each in results)
            while len(self._prepared) > known + done:  # what was skipped; its name is not used again
                self._prepared.popitem()
            error = psycopg.errors.error_from_result(failed, self._driver.info.encoding)
            if isinstance(error, InvalidSqlStatementName) or error.diag.source_function == "RevalidateCachedQuery":
                self._prepared.clear()
                self._stale = True
                raise _Stale("what was prepared is no longer there, or fits the tables no longer") from error
        if error is not None:
            raise error
        return results

    def _put(self, sql: str, values: Sequence[Any], types: tuple[int, ...], formats: Sequence[Any]) -> None:
        """Gives libpq a statement to send, which is prepared when it is used first."""
        if self.pooled:
            self._pgconn.send_query_params(sql.encode(), values, param_types=types, param_formats=formats)
            return
        name = self._prepared.get((sql, types))
        if name is None:
            name = self._prepared[sql, types] = b"handfast_%d" % next(self._numbers)
            self._pgconn.send_prepare(name, sql.encode(), param_types=types)
        self._pgconn.send_query_prepared(name, values, param_formats=formats)


def _collect(pgconn: PGconn, results: list[PGresult]) -> Waiting[None]:
    """Sends what libpq holds, and collects the results until everything was done or skipped."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:  # or each would wait for the other to read
            pgconn.consume_input()
    ended = False
    while True:
        while pgconn.is_busy():
            if (yield Wait.R):
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:  # the end of one statement's results
            if ended:
                raise psycopg.OperationalError("the connection is lost")
            ended = True
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return
        ended = False
        results.append(result)


@contextmanager
def cancellable(driver: Any) -> Iterator[None]:
    """`cancel_scope` for a connection to PostgreSQL. To cancel takes a connection of its own, so it has a thread of
    its own: where the network is down, each would hold up all others. None is under way once the block has been left.
    Where cancelling does not help, as the server is paused or cut off, the connection is shut down.
    """
    cancelling = threading.Lock()
    left = False
    give_up_at: float | None = None

    def cancel() -> None:
        nonlocal give_up_at
        try:
            if left:
                return
            now = time.monotonic()
            give_up_at = give_up_at or now + GIVE_UP_AFTER_S
            if now < give_up_at:
                driver.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            else:
                _shut_down(driver)
        except Exception as error:
            _log.warning("a query that nobody waits for could not be cancelled", **{"error.cause": in_one_line(error)})
        finally:
            cancelling.release()

    def wake() -> None:
        if cancelling.acquire(blocking=False):  # else it is being cancelled
            try:
                threading.Thread(target=cancel, name="cancel", daemon=True).start()
            except RuntimeError:  # there can be no more threads
                cancelling.release()
                raise

    try:
        with cancel_scope(wake):
            yield
    finally:
        left = True
        with cancelling:
            pass


def _shut_down(driver: Any) -> None:
    """Whoever waits on the connection finds it lost. The driver closes it by itself, so this has a descriptor of its
    own."""
    driver.is_shut_down = True
    with socket.socket(fileno=os.dup(driver.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
