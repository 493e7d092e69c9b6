"""Says what a load takes: processors, connections and storage, from costs that were measured.

The processor time of servers is that of `results.md`. What PostgreSQL takes, in processor time, log and rows, is
measured by `--measure`, which writes `growth.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from google.protobuf.struct_pb2 import Value

from benchmarks.calls import cpu_seconds
from benchmarks.place import Place, Suite
from handfast.accounts.v1.accounts_pb2 import UpdateUserAndPreferencesRequest
from handfast.client import Suite as Client
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.chassis.data.migrations import BESIDE_CALLS
from handfast.server.process.settings import ServerSettings
from handfast.server.suite import DATABASES, PARTICIPANTS
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.eventually import eventually

HERE = Path(__file__).parent
RESULTS, MEASURED = HERE / "results.md", HERE / "growth.json"
TITLES = {
    "read": "GetUser",
    "write": "UpdateUser",
    "atomic": "UpdateUserAndPreferences, finishing included",
}
"""The kinds of calls, and the rows of `results.md` with what servers take for one."""

DAY_S, HOUR_S = 86_400, 3_600
MICRO = 1e-6


@dataclass(frozen=True)
class Costs:
    """By the kind of call: microseconds of servers and of PostgreSQL, and bytes of its log (WAL). Of rows: bytes with
    their indexes.
    """

    server_us: Mapping[str, float]
    database_us: Mapping[str, float]
    log_bytes: Mapping[str, float]
    user_bytes: float
    decision_bytes: float
    branch_bytes: float
    answer_bytes: float


@dataclass(frozen=True)
class Load:
    users: int
    calls_per_day: float
    writes: float = 0.15
    """The share of plain writes."""
    atomic: float = 0.05
    """The share of writes of both services; the rest reads."""

    def per_day(self) -> dict[str, float]:
        shares = {"read": 1 - self.writes - self.atomic, "write": self.writes, "atomic": self.atomic}
        return {kind: share * self.calls_per_day for kind, share in shares.items()}


@dataclass(frozen=True)
class Plan:
    """How much room there is: the peak as a multiple of the mean, how far processors are used at the peak, how many
    processors a machine has."""

    peak: float = 5.0
    utilization: float = 0.6
    machine_processors: int = 8


@dataclass(frozen=True)
class Needs:
    calls_per_second: float
    """At the peak."""
    servers: int
    """Processes of servers, each of which keeps one processor busy; with those of the machine that may be lost."""
    machines: int
    connections: int
    """To PostgreSQL, at the most."""
    database_processors: int
    log_bytes_per_second: float
    """At the peak."""
    stored_bytes: float


def needs(load: Load, costs: Costs, plan: Plan) -> Needs:
    per_day = load.per_day()
    at_peak = {kind: calls / DAY_S * plan.peak for kind, calls in per_day.items()}

    def processors(us: Mapping[str, float]) -> int:
        busy = sum(calls * us[kind] for kind, calls in at_peak.items()) * MICRO
        return math.ceil(busy / plan.utilization)

    needed = processors(costs.server_us)
    machines = max(2, math.ceil(needed / plan.machine_processors) + 1)
    servers = max(2 * len(DATABASES), machines * math.ceil(needed / (machines - 1)))
    answers = per_day["write"] + per_day["atomic"]  # kept as long as decisions: a day
    branches = at_peak["atomic"] * HOUR_S * len(PARTICIPANTS)
    return Needs(
        calls_per_second=sum(at_peak.values()),
        servers=servers,
        machines=machines,
        connections=servers * (ServerSettings.threads + BESIDE_CALLS + 1),  # the last one is of probes
        database_processors=processors(costs.database_us),
        log_bytes_per_second=sum(calls * costs.log_bytes[kind] for kind, calls in at_peak.items()),
        stored_bytes=load.users * costs.user_bytes
        + per_day["atomic"] * costs.decision_bytes
        + branches * costs.branch_bytes
        + answers * costs.answer_bytes,
    )


USERS, CALLS_OF_A_USER = (10**5, 10**6, 10**7, 10**8, 10**9), 10.0
"""Of the table in docs/operations.md; calls are those of a day."""
HEAD = (
    "users",
    "calls a day",
    "calls a second, peak",
    "server processes",
    "machines for them",
    "connections, at most",
    "processors of PostgreSQL",
    "log (WAL), peak",
    "stored",
)


def table(loads: Sequence[Load], costs: Costs, plan: Plan) -> str:
    """In Markdown."""
    rows = [HEAD, ["---:"] * len(HEAD)]
    for load in loads:
        found = needs(load, costs, plan)
        rows.append(
            (
                _count(load.users),
                _count(load.calls_per_day),
                f"{found.calls_per_second:,.0f}",
                f"{found.servers:,}",
                f"{found.machines:,}",
                f"{found.connections:,}",
                f"{found.database_processors:,}",
                f"{_bytes(found.log_bytes_per_second)}/s",
                _bytes(found.stored_bytes),
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _count(number: float) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.0f}"


def _bytes(number: float) -> str:
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = min(int(math.log(max(number, 1), 1000)), len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}"


def server_us(results: str) -> dict[str, float]:
    """What servers take for each kind of call on PostgreSQL, of the page that `make bench` writes. Raises LookupError
    where it lacks one.
    """
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in results.splitlines() if "|" in line]
    found = {
        row[0]: float(row[3].removesuffix(" µs CPU").replace(",", ""))
        for row in rows
        if row[1:3] == ["an echo", "postgresql"]
    }
    return {kind: found[title] for kind, title in TITLES.items()}


def load_costs(results: Path = RESULTS, measured: Path = MEASURED) -> Costs:
    return Costs(server_us=server_us(results.read_text()), **json.loads(measured.read_text()))


# Measuring

FILLED, CALLS, CALLERS = 100_000, 1_000, 4


def measure() -> dict[str, object]:
    """What PostgreSQL takes, as `Costs` has it, with a suite that is started for it."""
    with tempfile.TemporaryDirectory(prefix="handfast-growth-") as folder, ExitStack() as stack:
        place = Place(Path(folder), "postgresql", False, stack)
        suite = place.suite(users=FILLED)
        client, database = stack.enter_context(suite.process.connect()), _PostgreSQL(suite)
        found: dict[str, object] = {"user_bytes": round(database.bytes_of("users", "claims", "preferences") / FILLED)}
        spent = {kind: _spent(database, partial(call, client, suite)) for kind, call in _CALLS.items()}
        found["database_us"] = {kind: round(each[0], 1) for kind, each in spent.items()}
        found["log_bytes"] = {kind: round(each[1]) for kind, each in spent.items()}
        for name, tables in (
            ("decision", ["decisions"]),
            ("branch", ["branches"]),
            ("answer", ["answers", "requests"]),
        ):
            found[f"{name}_bytes"] = round(database.bytes_of(*tables) / database.rows_of(*tables))
        return found


def _read(client: Client, suite: Suite, number: int) -> None:
    client.users.GetUser(GetUserRequest(user_id=suite.user_id(number)))


def _write(client: Client, suite: Suite, number: int) -> None:
    user = User(user_id=suite.user_id(number), display_name=f"Ada {number}")
    client.users.UpdateUser(UpdateUserRequest(user=user))


def _atomic(client: Client, suite: Suite, number: int) -> None:
    user = User(user_id=suite.user_id(number), display_name=f"Ada {number}")
    preferences = Preferences(values={"theme": Value(string_value=("light", "dark")[number % 2])})
    client.accounts.UpdateUserAndPreferences(UpdateUserAndPreferencesRequest(user=user, preferences=preferences))


_CALLS: Mapping[str, Callable[[Client, Suite, int], None]] = {"read": _read, "write": _write, "atomic": _atomic}


class _PostgreSQL:
    """What it has taken so far, and stores."""

    def __init__(self, suite: Suite) -> None:
        self._connections = {
            name: sa.create_engine(url, isolation_level="AUTOCOMMIT").connect()
            for name, url in suite.database_urls.items()
        }
        (self._any, *_) = self._connections.values()

    def bytes_of(self, *tables: str) -> int:
        """With their indexes, in all databases that have them."""
        return sum(self._ask("SELECT coalesce(pg_total_relation_size(to_regclass('{}')), 0)", tables))

    def rows_of(self, *tables: str) -> int:
        return sum(self._ask("SELECT count(*) FROM {}", tables))

    def used(self) -> tuple[float, int]:
        """Seconds of processors, and bytes of the log."""
        backend = int(self._any.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        log = self._any.exec_driver_sql("SELECT pg_current_wal_lsn() - '0/0'").scalar_one()
        main = int(_stat(backend)[1])
        running = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        ended = sum(map(int, _stat(main)[13:15])) / os.sysconf("SC_CLK_TCK")
        return cpu_seconds([main, *map(int, running)]) + ended, int(log)

    def unfinished(self) -> int:
        return int(
            self._connections["transactions"]
            .exec_driver_sql("SELECT count(*) FROM decisions WHERE finish_time IS NULL")
            .scalar_one()
        )

    def _ask(self, statement: str, tables: Iterable[str]) -> Iterator[int]:
        for connection in self._connections.values():
            there = set(sa.inspect(connection).get_table_names())
            for table in there.intersection(tables):
                yield int(connection.exec_driver_sql(statement.format(table)).scalar_one())


def _stat(pid: int) -> list[str]:
    """Of proc(5), from the state on: the parent is the second, and what children used that have ended the 14th and
    15th."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _spent(database: _PostgreSQL, call: Callable[[int], None]) -> tuple[float, float]:
    """Microseconds of processors, and bytes of the log, for each call, finishing included."""
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLS)))  # until all is prepared
        assert eventually(lambda: database.unfinished() == 0)
        seconds, log = database.used()
        list(pool.map(call, range(CALLS)))
        assert eventually(lambda: database.unfinished() == 0)
    seconds_after, log_after = database.used()
    return (seconds_after - seconds) / CALLS / MICRO, (log_after - log) / CALLS


def _number(kind: type[float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Reads an argument."""
    rule = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"must be a number, and is {text}")
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be {rule}, and is {text}")
        return number

    return read


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    share, count = _number(float, 0, 1), _number(int, 1)
    parser.add_argument("--users", type=count, help="how many (a table of several)")
    parser.add_argument("--calls-per-day", type=_number(float, 0), help="(10 for each user)")
    parser.add_argument("--writes", type=share, default=Load.writes, help="the share of plain writes (%(default)s)")
    parser.add_argument("--atomic", type=share, default=Load.atomic, help="of writes of both services (%(default)s)")
    parser.add_argument("--peak", type=_number(float, 1), default=Plan.peak, help="multiple of the mean (%(default)s)")
    parser.add_argument(
        "--utilization", type=_number(float, 0.01, 1), default=Plan.utilization, help="at the peak (%(default)s)"
    )
    parser.add_argument("--machine-processors", type=count, default=Plan.machine_processors, help="(%(default)s)")
    parser.add_argument("--measure", action="store_true", help="measure PostgreSQL first, and write growth.json")
    options = parser.parse_args(argv)
    if (shares := options.writes + options.atomic) > 1:
        parser.error(f"--writes and --atomic are shares of all calls, and come to {shares:g}")
    if options.measure:
        MEASURED.write_text(json.dumps(measure(), indent=2) + "\n")
    given = options.calls_per_day
    loads = [
        Load(users, CALLS_OF_A_USER * users if given is None else given, options.writes, options.atomic)
        for users in ([options.users] if options.users else USERS)
    ]
    print(table(loads, load_costs(), Plan(options.peak, options.utilization, options.machine_processors)))


if __name__ == "__main__":
    main()
