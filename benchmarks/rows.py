"""The rows: what is measured beside what, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import sides
from benchmarks.harness import Figure, Goal, Side
from benchmarks.place import Place, Security

SQLITE, POSTGRESQL = "sqlite", "postgresql"
Start = Callable[[Place], Side]


@dataclass(frozen=True)
class Row:
    """`name` is for the command line, `title` and `beside_title` are for the table. The two sides are functions of
    `sides.py`, whose docstrings say what they are. `figure` is what is compared, `callers` is how many call at a time,
    and `pinned` says that servers share one processor and callers have another. A row without a `goal` explains
    others. A first impression does without what is not `quick`.
    """

    name: str
    title: str
    beside_title: str
    side: Start
    beside: Start
    figure: Figure
    goal: Goal | None
    callers: int = 8
    pinned: bool = True
    engines: tuple[str, ...] = (SQLITE, POSTGRESQL)
    quick: bool = True


MILLION = 10**6


def at_most(ratio: float) -> Goal:
    return Goal(ratio)


def at_least(ratio: float) -> Goal:
    return Goal(ratio, at_most=False)


def _cost(name: str, title: str, side: Start, goal: Goal | None) -> Row:
    return Row(name, title, "an echo", side, sides.echo, Figure.CPU, goal)


_SAME_UPDATES = "the same updates without the guarantee"
_EMPTY = "an empty method on the chassis"


def _beside_facade(name: str, figure: Figure, goal: Goal, callers: int) -> Row:
    side, beside = sides.atomic_update, sides.facade
    return Row(name, "UpdateUserAndPreferences", _SAME_UPDATES, side, beside, figure, goal, callers, pinned=False)


def _transaction(name: str, title: str, beside_title: str, side: Start, beside: Start, goal: Goal | None) -> Row:
    return Row(name, title, beside_title, side, beside, Figure.TIME, goal, callers=1, pinned=False)


_UPDATES_IN_TRANSACTION = "UpdateUser and UpdatePreferences in a transaction"
_WITHOUT = "the same calls without a transaction"


def _beside_fastapi(name: str, title: str, side: Start, beside: Callable[..., Side]) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{name}-fastapi-{kind}",
            title,
            f"FastAPI, {kind}",
            side,
            partial(beside, kind=kind),
            Figure.RATE,
            at_least(2),
        )
        for kind in ("sync", "async")
    )


def _growth(name: str, what: str, least: int, side: Callable[[int], Start]) -> tuple[Row, ...]:
    def row(count: int) -> Row:
        title, beside_title = f"UpdateUserAndPreferences with {count:,} {what}", f"with {least:,}"
        many, few, quick = side(count), side(least), count < MILLION
        return Row(f"{name}-{count}", title, beside_title, many, few, Figure.CPU, at_most(1.15), quick=quick)

    return tuple(row(count) for count in (10**4, MILLION))


def _with_users(count: int) -> Start:
    return partial(sides.atomic_update, users=count)


def _with_finished(count: int) -> Start:
    return partial(sides.atomic_update, finished=count)


_BY_TLS = partial(sides.get_user, security=Security.TLS)
_BY_TLS_WITH_TOKEN = partial(sides.get_user, security=Security.TOKENS)


def _secured(name: str, title: str, side: Start, beside_title: str, beside: Start, goal: Goal | None = None) -> Row:
    return Row(name, title, beside_title, side, beside, Figure.RATE, goal, engines=(SQLITE,), quick=goal is not None)


def _traced(name: str, title: str, side: Callable[..., Side]) -> tuple[Row, ...]:
    def row(share: str, percent: str) -> Row:
        traced, text = partial(side, traced=share), f"{title}, of which {percent} is recorded"
        beside = f"{title} without tracing"
        return Row(
            f"{name}-traced-{percent[:-1]}",
            text,
            beside,
            traced,
            side,
            Figure.CPU,
            None,
            engines=(SQLITE,),
            quick=False,
        )

    return tuple(row(share, percent) for share, percent in (("0", "0%"), ("0.01", "1%"), ("1", "100%")))


TABLES = {
    "cost": (
        _cost("get-user", "GetUser", sides.get_user, at_most(2.1)),
        _cost("update-user", "UpdateUser", sides.update_user, at_most(3.3)),
        _cost("two-updates", "UpdateUser and UpdatePreferences, two calls", sides.two_updates, at_most(7)),
        _cost("facade", "the same two updates, made by a third server", sides.facade, None),
        _cost("atomic-update", "UpdateUserAndPreferences, finishing included", sides.atomic_update, at_most(20)),
        Row(
            "shared-processor",
            "UpdateUser, while preferences and a facade work on the same processor",
            "UpdateUser alone",
            sides.update_user_of_facade,
            sides.update_user,
            Figure.CPU,
            None,
        ),
    ),
    "security": (
        _secured(
            "get-user-secure",
            "GetUser by mutual TLS, with a token",
            _BY_TLS_WITH_TOKEN,
            "GetUser",
            sides.get_user,
            at_least(0.8),
        ),
        _secured("get-user-tls", "GetUser by mutual TLS", _BY_TLS, "GetUser", sides.get_user),
        _secured(
            "get-user-token",
            "GetUser by mutual TLS, with a token",
            _BY_TLS_WITH_TOKEN,
            "GetUser by mutual TLS",
            _BY_TLS,
        ),
        _secured("echo-tls", "an echo by mutual TLS", sides.echo_by_tls, "an echo", sides.echo),
        _secured(
            "atomic-update-secure",
            "UpdateUserAndPreferences by mutual TLS, with a token",
            partial(sides.atomic_update, security=Security.TOKENS),
            "UpdateUserAndPreferences",
            sides.atomic_update,
        ),
    ),
    "tracing": (
        *_traced("get-user", "GetUser", sides.get_user),
        *_traced("atomic-update", "UpdateUserAndPreferences", sides.atomic_update),
    ),
    "guarantee": (
        _beside_facade("throughput", Figure.RATE, at_least(0.7), callers=8),
        _beside_facade("latency", Figure.TIME, at_most(1.6), callers=1),
    ),
    "transactions": (
        _transaction(
            "transaction-at-once",
            f"{_UPDATES_IN_TRANSACTION}, at the same time",
            "UpdateUserAndPreferences",
            sides.transaction_at_once,
            sides.account_call,
            at_most(1.6),
        ),
        _transaction(
            "transaction-in-sequence",
            f"{_UPDATES_IN_TRANSACTION}, one after the other",
            "UpdateUserAndPreferences",
            sides.transaction_in_sequence,
            sides.account_call,
            None,
        ),
        _transaction(
            "transaction-that-writes",
            "GetUser, GetPreferences and UpdateUser in a transaction",
            _WITHOUT,
            sides.transaction_that_writes,
            sides.calls_that_write,
            None,
        ),
        _transaction(
            "transaction-that-reads",
            "GetUser and GetPreferences in a transaction",
            _WITHOUT,
            sides.transaction_that_reads,
            sides.calls_that_read,
            None,
        ),
    ),
    "peers": (
        Row(
            "get-user-bare",
            "GetUser",
            "the same query on bare grpc.server",
            sides.get_user,
            sides.get_user_bare,
            Figure.RATE,
            at_least(0.9),
        ),
        Row(
            "empty-bare",
            _EMPTY,
            "on bare grpc.server",
            sides.empty_chassis,
            sides.empty_bare,
            Figure.CPU,
            at_most(1.4),
            engines=(SQLITE,),
        ),
        Row(
            "empty-kit",
            _EMPTY,
            "on grpc-server-kit",
            sides.empty_chassis,
            sides.empty_kit,
            Figure.CPU,
            at_most(0.55),
            engines=(SQLITE,),
        ),
        *_beside_fastapi("get-user", "GetUser", sides.get_user, sides.get_user_fastapi),
        *_beside_fastapi("update-user", "UpdateUser", sides.update_user, sides.update_user_fastapi),
        Row(
            "two-phase",
            "UpdateUserAndPreferences",
            "PREPARE TRANSACTION in one process",
            sides.atomic_update,
            sides.two_phase,
            Figure.RATE,
            at_least(0.7),
            pinned=False,
            engines=(POSTGRESQL,),
        ),
        Row(
            "facade-two-phase",
            "the same updates without the guarantee, by three servers",
            "PREPARE TRANSACTION in one process",
            sides.facade,
            sides.two_phase,
            Figure.RATE,
            None,
            pinned=False,
            engines=(POSTGRESQL,),
        ),
        Row(
            "dbos",
            "UpdateUserAndPreferences",
            "a DBOS workflow in one process",
            sides.atomic_update,
            sides.dbos,
            Figure.RATE,
            at_least(3),
            pinned=False,
            engines=(POSTGRESQL,),
        ),
    ),
    "growth": (
        *_growth("finished", "finished transactions", 100, _with_finished),
        *_growth("users", "users", 1000, _with_users),
    ),
    "start": (
        Row(
            "import",
            "import handfast.client",
            "import grpc",
            sides.import_client,
            sides.import_grpc,
            Figure.TIME,
            at_most(1.5),
            pinned=False,
            engines=(SQLITE,),
        ),
        Row(
            "up",
            "handfast up, to ready",
            "three bare servers",
            sides.suite_start,
            sides.bare_start,
            Figure.TIME,
            Goal(3000, absolute=True),
            pinned=False,
            engines=(SQLITE,),
        ),
    ),
}
"""Rows by table. An echo is the answer of a bare `grpc.server` with a constant message."""
