"""Writes of SQLite that wait are committed together: each gets what it is owed, whatever befalls its neighbours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ResourceClosedError

from handfast.server.chassis.call import CURRENT, Call, Method, Pool, serving
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.data import group_commit, sqlite
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.group_commit import GroupCommit
from handfast.server.chassis.data.metrics import export_writes
from handfast.server.chassis.data.sqlite import Sqlite
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import CallCancelled, DatabaseUnavailable
from tests.eventually import PATIENCE, eventually

NOTES = sa.Table("notes", sa.MetaData(), sa.Column("key", sa.String, primary_key=True), sa.Column("content", sa.Text))
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0"
METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))

Work = Callable[[sa.Connection], Any]


@pytest.fixture(autouse=True)
def long_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come while the first work runs belong to its group, however long that takes."""
    monkeypatch.setattr(group_commit, "LONGEST_S", PATIENCE)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/new.sqlite3", connections=2)) as database:
        database.check()
        database.write(lambda connection: NOTES.metadata.create_all(connection))
        yield database


@pytest.fixture
def writes(database: Database) -> GroupCommit:
    assert isinstance(database.backend, Sqlite)
    return database.backend._writes


@pytest.fixture
def groups(writes: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works each group had, from now on."""
    sizes: list[int] = []
    monkeypatch.setattr(writes.metrics, "add", lambda size, seconds: sizes.append(size))
    return sizes


@pytest.fixture
def together(database: Database, writes: GroupCommit) -> Iterator[Callable[..., list[Future[Any]]]]:
    """Writes these works in one group, in this order."""
    with ThreadPoolExecutor(20) as pool:

        def write(*works: Work) -> list[Future[Any]]:
            futures: list[Future[Any]] = []

            def lead(connection: sa.Connection) -> Any:
                for number, work in enumerate(works[1:]):
                    if len(futures) == number:  # it may run again, when it is alone
                        futures.append(pool.submit(copy_context().run, database.write, work))
                        assert eventually(lambda number=number: len(writes._waiting) == number + 1)  # type: ignore[misc]
                return works[0](connection)

            first = pool.submit(copy_context().run, database.write, lead)
            first.exception(PATIENCE)
            return [first, *futures]

        yield write


def insert(key: str, content: str = "") -> Work:
    def work(connection: sa.Connection) -> str:
        connection.execute(sa.insert(NOTES), {"key": key, "content": content})
        return key

    return work


def refuse(connection: sa.Connection) -> None:
    insert("refused")(connection)
    raise KeyError("refused")


def keys(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(NOTES.c.key)).scalars())


def results(futures: list[Future[Any]]) -> list[Any]:
    """What each returned, or the type of what it raised."""
    return [type(future.exception(PATIENCE)) if future.exception(PATIENCE) else future.result() for future in futures]


def test_those_who_wait_are_committed_together_in_the_order_of_their_arrival(
    database: Database, together: Any, groups: list[int]
) -> None:
    order: list[str] = []

    def work(key: str) -> Work:
        def note_and_insert(connection: sa.Connection) -> Any:
            order.append(key)
            return insert(key)(connection)

        return note_and_insert

    assert results(together(*map(work, "abcde"))) == list("abcde")
    assert groups == [5]
    assert order == list("abcde")
    assert keys(database) == set("abcde")


def test_nobody_is_told_before_the_commit_not_even_of_a_refusal(
    database: Database, writes: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    futures: list[Future[Any]] = []

    def look(point: str) -> None:
        if point == "group.committing":
            told.extend(future.done() for future in futures)

    monkeypatch.setattr(group_commit, "reached", look)

    def lead(connection: sa.Connection) -> None:
        futures.extend(pool.submit(database.write, work) for work in (insert("b"), refuse))
        assert eventually(lambda: len(writes._waiting) == 2)

    with ThreadPoolExecutor(2) as pool:
        database.write(lead)
        assert results(futures) == ["b", KeyError]
    assert told == [False, False]


def test_a_work_that_raises_leaves_nothing_and_its_neighbours_stay(
    database: Database, together: Any, groups: list[int]
) -> None:
    assert results(together(insert("a"), refuse, insert("c"), insert("a"), insert("e"))) == [
        "a",
        KeyError,
        "c",
        IntegrityError,
        "e",
    ]
    assert groups == [5]
    assert keys(database) == set("ace")


def test_the_first_work_that_raises_holds_nobody_up(database: Database, together: Any) -> None:
    assert results(together(refuse, insert("b"), insert("c"))) == [KeyError, "b", "c"]
    assert keys(database) == set("bc")


def ended(error: bool) -> Work:
    def work(connection: sa.Connection) -> None:
        insert("ended")(connection)
        connection.exec_driver_sql("ROLLBACK")  # as SQLite itself does after some errors
        if error:
            raise KeyError

    return work


@pytest.mark.parametrize("error", [True, False])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_after_a_work_that_ends_the_transaction_its_neighbours_run_again_each_alone(
    database: Database, together: Any, groups: list[int], place: int, error: bool
) -> None:
    works = [insert(key) for key in "abcd"]
    works[place] = ended(error)
    expected: list[Any] = list("abcd")
    expected[place] = KeyError if error else OperationalError
    assert results(together(*works)) == expected
    assert keys(database) == {*"abcd"} - {"abcd"[place]}
    assert groups[:place] == [1] * place


def test_a_work_that_goes_on_though_its_transaction_has_ended_stores_nothing(database: Database, together: Any) -> None:
    statement = Statement(database, sa.insert(NOTES))

    def go_on(connection: sa.Connection) -> None:
        insert("ended")(connection)
        connection.exec_driver_sql("ROLLBACK")  # as SQLite itself does after some errors
        for execute in (
            insert("late"),
            lambda connection: statement.run(connection, key="later", content=""),
            lambda connection: statement.send(connection, key="latest", content=""),
        ):
            with pytest.raises(OperationalError, match="was rolled back, and its work went on"):
                execute(connection)

    assert results(together(insert("a"), go_on, insert("c"))) == ["a", OperationalError, "c"]
    assert keys(database) == {"a", "c"}
    with pytest.raises(OperationalError):
        database.write(go_on)
    assert keys(database) == {"a", "c"}


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_work_that_ends_its_transaction_by_itself_is_refused_and_its_neighbours_are_done_once(
    database: Database, together: Any, groups: list[int], end: str, hidden: bool
) -> None:
    def work(connection: sa.Connection) -> str:
        insert("b")(connection)
        with suppress(RuntimeError) if hidden else nullcontext():
            getattr(connection, end)()
        return "b"

    assert results(together(insert("a"), work, insert("c"))) == ["a", "b" if hidden else RuntimeError, "c"]
    assert keys(database) == ({*"abc"} if hidden else {*"ac"})
    assert groups == [3]


def test_a_work_that_breaks_its_connection_leaves_nobody_waiting(database: Database, together: Any) -> None:
    def close(connection: sa.Connection) -> None:
        sa.Connection.close(connection)

    assert results(together(insert("a"), close, insert("c"))) == [ResourceClosedError, ResourceClosedError, "c"]
    assert keys(database) == {"c"}


def test_an_interrupt_in_a_change_ends_its_own_work_alone(
    database: Database, writes: GroupCommit, canceller: Canceller
) -> None:
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)

    def cancelled(connection: sa.Connection) -> None:
        assert serving() is call  # it runs in its caller's context
        canceller.grpc_ended(call)
        connection.exec_driver_sql(f"UPDATE notes SET content = ({FOREVER})")

    context = copy_context()
    context.run(CURRENT.set, call)

    with ThreadPoolExecutor(3) as pool:
        futures: list[Future[Any]] = []

        def first(connection: sa.Connection) -> str:
            if not futures:
                futures.append(pool.submit(context.run, database.write, cancelled))
                assert eventually(lambda: len(writes._waiting) == 1)
                futures.append(pool.submit(database.write, insert("c")))
                assert eventually(lambda: len(writes._waiting) == 2)
            return str(insert("a")(connection))

        assert database.write(first) == "a"
        assert results(futures) == [OperationalError, "c"]
    assert keys(database) == {"a", "c"}


def allow_pages(database: Database, more: int | None) -> None:
    """As many as there are, and so many more, as on a disk that is about to be full."""

    def work(connection: sa.Connection) -> None:
        count = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        limit = 1_000_000 if more is None else count + more
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}").scalar_one()

    database.write(work)


def test_a_disk_that_is_full_in_a_work_fails_that_work_alone(database: Database, together: Any) -> None:
    allow_pages(database, 4)
    assert results(together(insert("a"), insert("b", "x" * 1_000_000), insert("c"))) == ["a", OperationalError, "c"]
    assert keys(database) == {"a", "c"}
    allow_pages(database, None)
    assert database.write(insert("b", "x" * 1_000_000)) == "b"


class Driver:
    """A connection of sqlite3 that fails at what it is told to."""

    def __init__(self, driver: sqlite3.Connection, failures: dict[str, list[str]]) -> None:
        self._driver, self._failures = driver, failures

    def execute(self, sql: str, *parameters: Any) -> Any:
        how = self._failures.get(sql, [])
        match how.pop(0) if how else "":
            case "stays open":
                raise sqlite3.OperationalError("failed")
            case "is gone":
                self._driver.execute("ROLLBACK")
                raise sqlite3.OperationalError("failed")
            case "is done":
                self._driver.execute(sql)
                raise sqlite3.OperationalError("failed")
            case "was read before":
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY_SNAPSHOT
                raise error
        return self._driver.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """By statement, how it fails the next times."""
    failures: dict[str, list[str]] = {}
    real = group_commit._driver
    monkeypatch.setattr(group_commit, "_driver", lambda connection: Driver(real(connection), failures))
    return failures


def test_a_commit_that_fails_and_leaves_the_transaction_open_is_done_again_one_by_one(
    database: Database, together: Any, failures: dict[str, list[str]], groups: list[int]
) -> None:
    failures["COMMIT"] = ["stays open"]
    assert results(together(insert("a"), refuse, insert("c"))) == ["a", KeyError, "c"]
    assert groups == [1, 1]
    assert keys(database) == {"a", "c"}


def test_a_commit_that_fails_for_one_alone_is_its_error(database: Database, failures: dict[str, list[str]]) -> None:
    failures["COMMIT"] = ["stays open"]
    with pytest.raises(OperationalError):
        database.write(insert("a"))
    assert database.write(insert("a")) == "a"


@pytest.mark.parametrize("how", ["is gone", "is done"])
def test_after_a_commit_that_fails_with_the_transaction_gone_all_are_in_the_dark_and_none_runs_again(
    database: Database, together: Any, failures: dict[str, list[str]], how: str
) -> None:
    failures["COMMIT"] = [how]
    futures = together(insert("a"), refuse, insert("c"))
    assert results(futures) == [OperationalError] * 3
    assert len({id(future.exception()) for future in futures}) == 3  # each thread raises one of its own
    assert keys(database) == ({"a", "c"} if how == "is done" else set())


@pytest.mark.parametrize("sql", ["SAVEPOINT work", "RELEASE work", "ROLLBACK TO work"])
@pytest.mark.parametrize("how", ["stays open", "is gone"])
def test_where_a_savepoint_fails_each_runs_again_alone(
    database: Database, together: Any, failures: dict[str, list[str]], sql: str, how: str
) -> None:
    failures[sql] = [how]
    assert results(together(insert("a"), refuse, insert("c"))) == ["a", KeyError, "c"]
    assert keys(database) == {"a", "c"}


def test_a_connection_that_cannot_roll_back_is_not_used_again(
    database: Database, writes: GroupCommit, together: Any, failures: dict[str, list[str]]
) -> None:
    before = writes._connection
    failures["ROLLBACK"] = ["stays open"]
    assert results(together(refuse, insert("b"))) == [KeyError, "b"]
    assert writes._connection is not before
    assert keys(database) == {"b"}


def test_a_begin_that_meets_an_older_read_is_tried_on_a_new_connection(
    database: Database, writes: GroupCommit, failures: dict[str, list[str]]
) -> None:
    before = writes._connection
    failures["BEGIN IMMEDIATE"] = ["was read before"]
    assert database.write(insert("a")) == "a"
    assert writes._connection not in (None, before)


def test_a_begin_that_fails_fails_its_own_work_and_the_next_one_leads(
    database: Database, writes: GroupCommit, failures: dict[str, list[str]]
) -> None:
    failures["BEGIN IMMEDIATE"] = ["stays open"]
    with pytest.raises(OperationalError):
        database.write(insert("a"))
    assert database.write(insert("b")) == "b"
    assert len(writes._waiting) == 0


@pytest.mark.parametrize("write", [True, False])
def test_a_cursor_that_a_work_leaves_open_holds_up_neither_commit_nor_checkpoint(
    database: Database, together: Any, write: bool
) -> None:
    kept: list[Any] = []
    database.write(lambda connection: [insert(key)(connection) for key in "abc"])

    def leave(connection: sa.Connection) -> str:
        query = sa.update(NOTES).values(content="x").returning(NOTES.c.key) if write else sa.select(NOTES.c.key)
        kept.append(connection.execute(query))
        kept[-1].fetchone()
        return "left"

    def leave_and_raise(connection: sa.Connection) -> None:
        leave(connection)
        raise KeyError

    assert results(together(leave, leave_and_raise, insert("d"))) == ["left", KeyError, "d"]
    with pytest.raises((DBAPIError, ResourceClosedError)):
        kept[0].fetchone()
    checkpointed(database)


def test_a_cursor_that_a_reader_leaves_open_is_closed_and_the_next_read_sees_what_is_new(database: Database) -> None:
    database.write(lambda connection: [insert(key)(connection) for key in "abc"])
    kept = []

    @contextmanager
    def reading() -> Iterator[sa.Connection]:
        with database.read() as connection:
            kept.append(connection.execute(sa.select(NOTES.c.key)))
            kept[-1].fetchone()
            yield connection

    with pytest.raises(KeyError), reading():
        raise KeyError
    with reading():
        pass
    database.write(insert("d"))
    assert keys(database) == set("abcd")
    checkpointed(database)


def checkpointed(database: Database) -> None:
    """The whole write-ahead log can be written back, as nobody reads what was there before."""
    with closing(sqlite3.connect(database.name.removeprefix("sqlite:///"))) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_a_result_that_a_write_returns_holds_no_rows(database: Database) -> None:
    result = database.write(lambda connection: connection.execute(sa.select(NOTES.c.key)))
    with pytest.raises((DBAPIError, ResourceClosedError)):
        result.all()


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another process writes."""
    with closing(sqlite3.connect(database.name.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_writes_go_on_once_another_process_ends_its_own(database: Database, writes: GroupCommit) -> None:
    with ThreadPoolExecutor(2) as pool:
        with locked(database):
            futures = [pool.submit(database.write, insert(key)) for key in "ab"]
            assert eventually(lambda: len(writes._waiting) == 1)
        assert results(futures) == list("ab")


def test_while_another_process_writes_all_that_wait_fail_by_their_own_age(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.3)
    monkeypatch.setattr(sqlite, "BUSY_S", 0.01)
    with closing(Database(database.name)) as impatient, ThreadPoolExecutor(5) as pool, locked(database):
        futures = [pool.submit(impatient.write, insert(key)) for key in "abcde"]
        assert {*results(futures)} <= {OperationalError, DatabaseUnavailable}
        assert impatient.writing_failed
    assert keys(database) == set()
    assert database.write(insert("a")) == "a"


def test_a_write_that_has_to_wait_too_long_says_to_come_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.05)
    entered, leave = threading.Event(), threading.Event()

    def hold(_connection: sa.Connection) -> None:
        entered.set()
        leave.wait(PATIENCE)

    with closing(Database(database.name)) as impatient, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(impatient.write, hold)
        assert entered.wait(PATIENCE)
        with pytest.raises(DatabaseUnavailable, match="Other writes took too long"):
            impatient.write(insert("late"))
        leave.set()
        holding.result(PATIENCE)
        assert impatient.write(insert("a")) == "a"
    assert keys(database) == {"a"}


def test_a_call_that_is_over_leaves_the_queue_and_its_work_does_not_run(
    database: Database, writes: GroupCommit, canceller: Canceller
) -> None:
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)
    context = copy_context()
    context.run(CURRENT.set, call)

    def hold(connection: sa.Connection) -> None:
        waiting = pool.submit(context.run, database.write, insert("late"))
        assert eventually(lambda: len(writes._waiting) == 1)
        canceller.grpc_ended(call)
        assert results([waiting]) == [CallCancelled]

    with ThreadPoolExecutor(1) as pool:
        database.write(hold)
    assert keys(database) == set()


def test_a_database_that_is_closed_while_works_wait_has_them_done(
    database: Database, writes: GroupCommit, together: Any
) -> None:
    def close(connection: sa.Connection) -> str:
        writes.close()
        return str(insert("a")(connection))

    assert results(together(close, insert("b"))) == ["a", "b"]
    assert eventually(lambda: writes._connection is None)
    assert keys(database) == {"a", "b"}
    assert database.write(insert("c")) == "c"


def test_a_wait_that_is_cut_by_the_keyboard_leaves_the_queue_and_keeps_no_lead(
    database: Database, writes: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: object, seconds: float = -1) -> None:
        raise KeyboardInterrupt

    def hold(connection: sa.Connection) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("handfast.server.chassis.data.group_commit._Write.sleep", cut)
            waiting = pool.submit(database.write, insert("late"))
            assert results([waiting]) == [KeyboardInterrupt]
        assert len(writes._waiting) == 0

    with ThreadPoolExecutor(1) as pool:
        database.write(hold)
    assert database.write(insert("a")) == "a"
    assert keys(database) == {"a"}


def test_a_group_ends_after_so_many_works(
    database: Database, together: Any, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_WORKS", 3)
    assert results(together(*map(insert, "abcde"))) == list("abcde")
    assert groups == [3, 2]


def test_a_group_ends_after_so_long(
    database: Database, together: Any, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "LONGEST_S", 0.0)
    assert results(together(*map(insert, "abc"))) == list("abc")
    assert groups == [1, 1, 1]


def test_each_work_runs_in_the_context_of_its_caller(database: Database, writes: GroupCommit) -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody")

    with ThreadPoolExecutor(2) as pool:
        contexts = {own: copy_context() for own in "abc"}
        for own, context in contexts.items():
            context.run(name.set, own)
        futures: list[Future[Any]] = []

        def lead(connection: sa.Connection) -> str:
            for own in "bc":
                futures.append(pool.submit(contexts[own].run, database.write, lambda connection: name.get()))
                assert eventually(lambda: len(writes._waiting) == len(futures))
            return name.get()

        assert contexts["a"].run(database.write, lead) == "a"
        assert results(futures) == ["b", "c"]


def test_many_callers_who_add_to_one_counter_lose_no_count(database: Database, groups: list[int]) -> None:
    database.write(insert("counter", "0"))
    add = Statement(
        database, sa.update(NOTES).values(content=sa.cast(sa.cast(NOTES.c.content, sa.Integer) + 1, sa.Text))
    )
    callers, times = 8, 25
    start = threading.Barrier(callers)

    def call() -> None:
        start.wait(PATIENCE)
        for number in range(times):
            if number % 5 == 0:
                with pytest.raises(KeyError):
                    database.write(refuse)
            database.write(add.run)

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(call) for _ in range(callers)]:
            done.result(PATIENCE)
    with database.read() as connection:
        assert connection.execute(sa.select(NOTES.c.content)).scalar_one() == str(callers * times)


def test_groups_are_measured(database: Database, together: Any) -> None:
    registry = CollectorRegistry()
    export_writes(registry, database)

    def sample(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"handfast_write_group_{name}", labels) or 0.0

    single = sample("size_count")
    assert results(together(*map(insert, "abc"))) == list("abc")
    database.write(insert("d"))
    assert sample("size_sum") == single + 4
    assert sample("size_count") == sample("seconds_count") == sample("seconds_bucket", le="+Inf") == single + 2
    assert [sample("size_bucket", le=le) for le in ("1.0", "2.0", "4.0")] == [single + 1, single + 1, single + 2]
    assert sample("seconds_sum") > 0
