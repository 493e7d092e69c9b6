"""A transaction that is given up in the middle: by Ctrl-C, a cancelled task, a generator that nobody goes on with."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest

from handfast.client import (
    Aborted,
    Cancelled,
    Outcome,
    OutcomeUnknown,
    ServiceError,
    Suite,
    Transaction,
    TransactionMisuse,
    aio,
    connect,
)
from handfast.client.transactions import ending
from handfast.client.transactions.journal import Journal
from handfast.client.transactions.methods import Part
from handfast.client.transactions.minted import Minted
from handfast.users.v1.users_pb2 import GetUserRequest
from tests.eventually import eventually

from .participants import Fakes, refuse
from .test_calls import ADA, ADAS, BOB, wait

BOBS = GetUserRequest(user_id="bob")


@pytest.fixture
def client(suite: Fakes) -> Iterator[Suite]:
    with connect(**suite.addresses()) as client:
        yield client
    # Ctrl-C can leave a lock of a gRPC channel to the main thread, and any other that then collects the channel hangs.
    del client
    gc.collect()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets handlers go on that a test made wait; at the end of the test at the latest."""
    released = threading.Event()
    yield released
    released.set()


# Of the synchronous client


def interrupting(method: str, released: threading.Event) -> Callable[[str, grpc.ServicerContext], None]:
    """Interrupts the main thread when the call arrives, as Ctrl-C does, and does not answer it."""
    main = threading.main_thread().ident
    assert main is not None

    def before(called: str, context: grpc.ServicerContext) -> None:
        if called == method:
            signal.pthread_kill(main, signal.SIGINT)
            wait(released)

    return before


def run_interrupted(client: Suite) -> tuple[Transaction, str]:
    """The transaction, and what the interruption tells of it."""
    with pytest.raises(KeyboardInterrupt) as raised, client.transaction() as tx:  # noqa: PT012
        tx.preferences.UpdatePreferences(ADAS)
        tx.users.UpdateUser(ADA)
    return tx, told(raised.value)


def told(interruption: BaseException) -> str:
    return "".join(getattr(interruption, "__notes__", ()))


def test_ctrl_c_during_a_call_rolls_back(suite: Fakes, client: Suite, released: threading.Event) -> None:
    suite.users.before = interrupting("UpdateUser", released)
    tx, says = run_interrupted(client)
    assert (tx.outcome, says) == (Outcome.ABORTED, "")
    assert suite.coordinator.decisions == {tx.id: None}


def test_ctrl_c_before_the_commit_is_carried_out_rolls_back(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    suite.coordinator.before = interrupting("CommitTransaction", released)
    tx, says = run_interrupted(client)
    assert (tx.outcome, says) == (Outcome.ABORTED, "")
    assert suite.coordinator.decisions == {tx.id: None}


def test_ctrl_c_after_the_commit_was_carried_out_leaves_it_committed(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    suite.coordinator.after = interrupting("CommitTransaction", released)
    tx, says = run_interrupted(client)
    assert tx.outcome is Outcome.COMMITTED
    assert says == f"It came during the commit of transaction {tx.id}, which is committed."
    assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}


def test_ctrl_c_where_nobody_tells_what_became_of_the_commit_leaves_it_unknown(
    suite: Fakes, client: Suite, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ROLL_BACK_SECONDS", 0.1)

    def hang(method: str, context: grpc.ServicerContext) -> None:
        interrupting("CommitTransaction", released)(method, context)
        if method == "RollbackTransaction":
            wait(released)

    suite.coordinator.before = hang
    tx, says = run_interrupted(client)
    assert tx.outcome is Outcome.UNKNOWN
    assert says == f"It came during the commit of transaction {tx.id}, which may be committed. Ask GetTransaction."


@pytest.mark.parametrize("method", ["BeginTransaction", "UpdateUser"])
def test_after_ctrl_c_during_a_write_leaving_the_block_raises_though_the_block_goes_on(
    suite: Fakes, client: Suite, released: threading.Event, method: str
) -> None:
    suite.users.before = suite.coordinator.before = interrupting(method, released)
    with pytest.raises(Cancelled), client.transaction() as tx:  # noqa: PT012
        with pytest.raises(KeyboardInterrupt):
            tx.users.UpdateUser(ADA)
        released.set()
        with pytest.raises(Aborted):
            tx.preferences.UpdatePreferences(ADAS)
    assert tx.outcome is Outcome.ABORTED
    assert suite.preferences.received == []
    assert list(suite.coordinator.decisions.values()) == ([None] if method == "UpdateUser" else [])


def test_ctrl_c_while_a_commit_that_failed_rolls_back_asks_for_that_once_more(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    suite.coordinator.before = before_the_first(interrupting("RollbackTransaction", released))
    with pytest.raises(KeyboardInterrupt), client.transaction() as tx:
        read_what_changes(suite, tx.users.GetUser(BOBS), tx.users.UpdateUser(ADA))
    assert tx.outcome is Outcome.ABORTED
    assert suite.coordinator.decisions == {tx.id: None}


def test_ctrl_c_while_an_exception_rolls_back_asks_for_that_once_more(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    suite.coordinator.before = before_the_first(interrupting("RollbackTransaction", released))
    with pytest.raises(KeyboardInterrupt), client.transaction() as tx:  # noqa: PT012
        tx.users.UpdateUser(ADA)
        raise LookupError
    assert suite.coordinator.decisions == {tx.id: None}


def before_the_first(hook: Callable[..., None]) -> Callable[[str, grpc.ServicerContext], None]:
    """What `hook` does with a call of RollbackTransaction, for the first only."""
    come = threading.Event()

    def before(method: str, context: grpc.ServicerContext) -> None:
        if method == "RollbackTransaction" and not come.is_set():
            come.set()
            hook(method, context)

    return before


def read_what_changes(suite: Fakes, *_: object) -> None:
    """After these calls somebody else changes what was read."""
    suite.users.revisions["users/bob"] += "*"


def test_rolling_back_takes_no_longer_where_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    journal = Journal(30.0)
    journal.begin(Minted("the id", 0, now_s))
    journal.metadata(Part.WRITE, "users")
    rolling_back = ending.roll_back(journal, KeyboardInterrupt())

    first = next(rolling_back)
    now_s += 1.5
    second = rolling_back.throw(KeyboardInterrupt())
    assert [ask.timeout for asks in (first, second) if not isinstance(asks, float) for ask in asks] == [2.0, 0.5]


def test_a_generator_that_is_dropped_rolls_back(suite: Fakes, client: Suite) -> None:
    transactions: list[Transaction] = []

    def users() -> Iterator[str]:
        with client.transaction() as tx:
            transactions.append(tx)
            yield tx.users.UpdateUser(ADA).user.user_id
            yield tx.users.UpdateUser(BOB).user.user_id

    generator = users()
    assert next(generator) == "ada"
    del generator
    gc.collect()
    (tx,) = transactions
    assert tx.outcome is Outcome.ABORTED
    assert suite.coordinator.decisions == {tx.id: None}


def test_leaving_by_an_exception_ends_the_calls_under_way(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    arrived = threading.Event()

    def hang(method: str, context: grpc.ServicerContext) -> None:
        arrived.set()
        wait(released)

    suite.users.before = hang
    with pytest.raises(LookupError), client.transaction() as tx:  # noqa: PT012
        first, second = tx.users.UpdateUser.future(ADA), tx.users.UpdateUser.future(BOB)
        arrived.wait(20)
        raise LookupError
    for call in (first, second):
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
    assert suite.coordinator.decisions == {tx.id: None}
    assert suite.users.numbers() == [("UpdateUser", "1")]


# Of the one for asyncio


async def run(client: aio.Suite, transactions: list[aio.Transaction]) -> None:
    async with client.transaction() as tx:
        transactions.append(tx)
        await tx.preferences.UpdatePreferences(ADAS)
        await tx.users.UpdateUser(ADA)


def cancelled_when(suite: Fakes, arrived: threading.Event) -> tuple[aio.Transaction, str]:
    """Runs a transaction in a task that is cancelled when this happens. Returns what the cancellation tells, too."""

    async def cancel() -> tuple[aio.Transaction, str]:
        transactions: list[aio.Transaction] = []
        async with aio.connect(**suite.addresses()) as client:
            task = asyncio.create_task(run(client, transactions))
            await asyncio.to_thread(arrived.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            (tx,) = transactions
            return tx, told(raised.value)

    return asyncio.run(cancel())


def hanging(method: str, arrived: threading.Event, released: threading.Event) -> Callable[..., None]:
    def hang(called: str, context: grpc.ServicerContext) -> None:
        if called == method:
            arrived.set()
            wait(released)

    return hang


def test_a_task_that_is_cancelled_during_a_call_rolls_back(suite: Fakes, released: threading.Event) -> None:
    arrived = threading.Event()
    suite.users.before = hanging("UpdateUser", arrived, released)
    tx, says = cancelled_when(suite, arrived)
    assert (tx.outcome, says) == (Outcome.ABORTED, "")
    assert suite.coordinator.decisions == {tx.id: None}


@pytest.mark.parametrize("method", ["BeginTransaction", "UpdateUser", ""])
def test_after_a_write_that_was_cancelled_leaving_the_block_raises_though_the_block_goes_on(
    suite: Fakes, released: threading.Event, method: str
) -> None:
    """Also before it was sent, and before its task has run at all."""
    arrived = threading.Event()
    suite.users.before = suite.coordinator.before = hanging(method, arrived, released)

    async def cancel() -> None:
        async with aio.connect(**suite.addresses()) as client:
            with pytest.raises(Cancelled):  # noqa: PT012
                async with client.transaction() as tx:
                    call = tx.users.UpdateUser(ADA)
                    if method:
                        await asyncio.to_thread(arrived.wait, 20)
                    assert call.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await call
                    released.set()
                    with pytest.raises(Aborted):
                        await tx.preferences.UpdatePreferences(ADAS)
            assert tx.outcome is Outcome.ABORTED

    asyncio.run(cancel())
    assert suite.preferences.received == []
    assert list(suite.coordinator.decisions.values()) == ([None] if method == "UpdateUser" else [])


def test_a_task_that_is_cancelled_before_the_commit_is_carried_out_rolls_back(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.coordinator.before = hanging("CommitTransaction", arrived, released)
    tx, says = cancelled_when(suite, arrived)
    assert (tx.outcome, says) == (Outcome.ABORTED, "")
    assert suite.coordinator.decisions == {tx.id: None}


def test_a_task_that_is_cancelled_after_the_commit_was_carried_out_leaves_it_committed(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.coordinator.after = hanging("CommitTransaction", arrived, released)
    tx, says = cancelled_when(suite, arrived)
    assert tx.outcome is Outcome.COMMITTED
    assert says == f"It came during the commit of transaction {tx.id}, which is committed."
    assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}


def test_transact_that_runs_out_of_the_time_of_its_caller_tells_of_a_commit_under_way(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.coordinator.after = hanging("CommitTransaction", arrived, released)

    async def write(tx: aio.Transaction) -> None:
        await tx.users.UpdateUser(ADA)

    async def run_out_of_time() -> BaseException:
        async with aio.connect(**suite.addresses()) as client:
            with pytest.raises(TimeoutError) as raised:  # noqa: PT012
                async with asyncio.timeout(None) as time_limit:
                    task = asyncio.ensure_future(asyncio.to_thread(arrived.wait, 20))
                    task.add_done_callback(lambda _: time_limit.reschedule(0.0))
                    await client.transact(write)
            assert isinstance(raised.value.__cause__, asyncio.CancelledError)
            return raised.value.__cause__

    says = told(asyncio.run(run_out_of_time()))
    (id_,) = suite.coordinator.decisions
    assert suite.coordinator.decisions == {id_: {"users": 1}}
    assert says == f"It came during the commit of transaction {id_}, which is committed."


def test_ctrl_c_under_asyncio_run_tells_of_a_commit_under_way(suite: Fakes, released: threading.Event) -> None:
    suite.coordinator.after = interrupting("CommitTransaction", released)

    async def commit() -> None:
        async with aio.connect(**suite.addresses()) as client:
            await run(client, [])

    with pytest.raises(KeyboardInterrupt) as raised:
        asyncio.run(commit())
    (id_,) = suite.coordinator.decisions
    says = f"It came during the commit of transaction {id_}, which is committed."
    assert isinstance(raised.value.__context__, asyncio.CancelledError)
    assert told(raised.value.__context__) == says
    assert says in "".join(traceback.format_exception(raised.value))


def test_a_task_that_is_cancelled_again_while_it_rolls_back_does_so_in_the_background(
    suite: Fakes, released: threading.Event
) -> None:
    arrived, rolling_back, go_on = threading.Event(), threading.Event(), threading.Event()
    suite.users.before = hanging("UpdateUser", arrived, released)
    suite.coordinator.before = hanging("RollbackTransaction", rolling_back, go_on)

    async def cancel_twice() -> None:
        transactions: list[aio.Transaction] = []
        async with aio.connect(**suite.addresses()) as client:
            task = asyncio.create_task(run(client, transactions))
            for event in (arrived, rolling_back):
                await asyncio.to_thread(event.wait, 20)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
        assert suite.coordinator.decisions == {transactions[0].id: None}

    asyncio.run(cancel_twice())


def test_a_task_that_is_cancelled_while_a_commit_that_failed_rolls_back_does_so_nevertheless(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.coordinator.before = before_the_first(hanging("RollbackTransaction", arrived, released))

    async def fail(client: aio.Suite, transactions: list[aio.Transaction]) -> None:
        async with client.transaction() as tx:
            transactions.append(tx)
            read_what_changes(suite, await tx.users.GetUser(BOBS), await tx.users.UpdateUser(ADA))

    async def cancel() -> None:
        transactions: list[aio.Transaction] = []
        async with aio.connect(**suite.addresses()) as client:
            task = asyncio.create_task(fail(client, transactions))
            await asyncio.to_thread(arrived.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert transactions[0].outcome is Outcome.ABORTED
            assert suite.coordinator.decisions == {transactions[0].id: None}

    asyncio.run(cancel())


@pytest.mark.parametrize("method", ["UpdateUser", "CommitTransaction"])
def test_a_coroutine_that_is_closed_rolls_back_in_the_background_and_closing_the_suite_waits_for_it(
    suite: Fakes, released: threading.Event, method: str
) -> None:
    arrived = threading.Event()
    suite.users.before = suite.coordinator.before = hanging(method, arrived, released)

    async def close() -> None:
        transactions: list[aio.Transaction] = []
        async with aio.connect(**suite.addresses()) as client:
            coroutine = run(client, transactions)
            await step_until(coroutine, arrived)
            coroutine.close()
            assert suite.coordinator.decisions == {}
        assert suite.coordinator.decisions == {transactions[0].id: None}

    asyncio.run(close())


async def step_until(coroutine: object, arrived: threading.Event) -> None:
    """Runs a coroutine by hand, as a trampoline does, and stops in its middle."""
    while True:
        future = coroutine.send(None)  # type: ignore[attr-defined]
        happened = asyncio.ensure_future(asyncio.to_thread(arrived.wait, 20))
        await asyncio.wait((happened, future), return_when=asyncio.FIRST_COMPLETED)
        if arrived.is_set():
            return
        future._asyncio_future_blocking = False
        happened.cancel()


def test_an_asynchronous_generator_that_is_dropped_rolls_back(suite: Fakes) -> None:
    async def users(client: aio.Suite) -> AsyncIterator[str]:
        async with client.transaction() as tx:
            yield (await tx.users.UpdateUser(ADA)).user.user_id
            yield (await tx.users.UpdateUser(BOB)).user.user_id

    async def drop() -> None:
        async with aio.connect(**suite.addresses()) as client:
            async for name in users(client):
                assert name == "ada"
                break
            gc.collect()
            assert await asyncio.to_thread(eventually, lambda: list(suite.coordinator.decisions.values()) == [None])

    asyncio.run(drop())


# The suite is closed meanwhile


def test_closing_the_suite_rolls_back_what_another_thread_has_open(suite: Fakes, released: threading.Event) -> None:
    written, raised = threading.Event(), list[BaseException]()

    def work(client: Suite) -> None:
        try:
            with client.transaction() as tx:
                tx.users.UpdateUser(ADA)
                written.set()
                wait(released)
        except TransactionMisuse as error:
            raised.append(error)

    with connect(**suite.addresses()) as client:
        thread = threading.Thread(target=work, args=[client])
        thread.start()
        wait(written)
    assert list(suite.coordinator.decisions.values()) == [None]
    released.set()
    thread.join(20)
    assert "suite was closed" in str(raised)


def test_closing_the_suite_rolls_back_what_another_task_has_open(suite: Fakes) -> None:
    async def work(client: aio.Suite, written: asyncio.Event, closed: asyncio.Event) -> None:
        async with client.transaction() as tx:
            await tx.users.UpdateUser(ADA)
            written.set()
            await closed.wait()

    async def close() -> None:
        written, closed = asyncio.Event(), asyncio.Event()
        async with aio.connect(**suite.addresses()) as client:
            task = asyncio.create_task(work(client, written, closed))
            await written.wait()
        assert list(suite.coordinator.decisions.values()) == [None]
        closed.set()
        with pytest.raises(TransactionMisuse, match="suite was closed"):
            await task

    asyncio.run(close())


def test_closing_the_suite_does_not_wait_for_a_transaction_that_is_about_to_begin(
    suite: Fakes, released: threading.Event
) -> None:
    arrived, raised = threading.Event(), list[BaseException]()
    suite.coordinator.before = hanging("BeginTransaction", arrived, released)

    def work(client: Suite) -> None:
        try:
            with client.transaction() as tx:
                tx.users.UpdateUser(ADA)
        except ServiceError as error:
            raised.append(error)

    with connect(**suite.addresses(), timeout=100.0) as client:
        thread = threading.Thread(target=work, args=[client])
        thread.start()
        wait(arrived)
    thread.join(20)
    assert [type(error) for error in raised] == [Cancelled]
    assert suite.users.received == []


def test_closing_the_suite_during_a_commit_leaves_its_outcome_unknown(suite: Fakes, released: threading.Event) -> None:
    arrived, raised = threading.Event(), list[BaseException]()
    suite.coordinator.before = hanging("CommitTransaction", arrived, released)

    def work(client: Suite) -> None:
        try:
            with client.transaction() as tx:
                tx.users.UpdateUser(ADA)
        except OutcomeUnknown as error:
            raised.append(error)

    with connect(**suite.addresses()) as client:
        thread = threading.Thread(target=work, args=[client])
        thread.start()
        wait(arrived)
    thread.join(20)
    assert len(raised) == 1


def test_closing_the_suite_rolls_back_for_two_seconds_at_the_most(suite: Fakes, released: threading.Event) -> None:
    arrived = threading.Event()
    with connect(**suite.addresses()) as client, contextlib.ExitStack() as blocks:
        for _ in range(3):
            tx = blocks.enter_context(client.transaction())
            tx.users.UpdateUser(ADA)
        suite.coordinator.before = hanging("RollbackTransaction", arrived, released)
        client.close()
        with pytest.raises(TransactionMisuse, match="suite was closed"):
            blocks.close()
    assert suite.coordinator.methods().count("RollbackTransaction") == 1


# Two at once


def test_two_threads_share_a_transaction(suite: Fakes, client: Suite) -> None:
    def write() -> None:
        for _ in range(25):
            tx.users.UpdateUser(ADA)
            tx.preferences.UpdatePreferences.future(ADAS)

    with client.transaction() as tx:
        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert suite.coordinator.decisions == {tx.id: {"users": 100, "preferences": 100}}
    assert suite.users.numbers() == [("UpdateUser", str(number)) for number in range(1, 101)]
    assert suite.coordinator.methods() == ["BeginTransaction", "CommitTransaction"]


def test_a_thread_that_calls_while_another_one_rolls_back_is_told_so(
    suite: Fakes, client: Suite, released: threading.Event
) -> None:
    arrived, raised = threading.Event(), list[BaseException]()
    suite.users.before = hanging("UpdateUser", arrived, released)

    def call() -> None:
        try:
            tx.users.UpdateUser(ADA)
        except Cancelled as error:
            raised.append(error)

    with client.transaction() as tx:
        thread = threading.Thread(target=call)
        thread.start()
        arrived.wait(20)
        tx.rollback()
        thread.join(20)
    assert [str(error) for error in raised] == [
        "CANCELLED: The transaction was rolled back while the call was under way."
    ]
    assert suite.coordinator.decisions == {tx.id: None}


def test_a_task_that_calls_while_another_one_rolls_back_is_told_so(suite: Fakes, released: threading.Event) -> None:
    arrived = threading.Event()
    suite.users.before = hanging("UpdateUser", arrived, released)

    async def call() -> None:
        async with aio.connect(**suite.addresses()) as client, client.transaction() as tx:
            task = asyncio.ensure_future(tx.users.UpdateUser(ADA))
            await asyncio.to_thread(wait, arrived)
            await tx.rollback()
            with pytest.raises(Cancelled, match="The transaction was rolled back while the call was under way"):
                await task

    asyncio.run(call())


def test_the_calls_that_wait_for_one_that_fails_are_not_sent(suite: Fakes, client: Suite) -> None:
    suite.users.before = lambda method, context: refuse(context, grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    with pytest.raises(Aborted), client.transaction() as tx:  # noqa: PT012
        first, second = tx.users.UpdateUser.future(ADA), tx.users.UpdateUser.future(BOB)
        assert isinstance(first.exception(), grpc.RpcError)
        second.result()
    assert suite.users.numbers() == [("UpdateUser", "1")]
