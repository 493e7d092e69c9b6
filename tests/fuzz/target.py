"""The suite under fire: real servers on loopback, which ask who calls; and whether they are still well."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.client import Suite, connect
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, ListPreferenceDefinitionsRequest
from handfast.server.process.settings import METRICS_PORT_OFFSET
from handfast.transactions.v1.transactions_pb2 import ListBranchesRequest, ListTransactionsRequest
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub, TransactionServiceStub
from handfast.users.v1.users_pb2 import BatchGetUsersRequest, ListUsersRequest
from tests.cli.processes import Process, suite_up
from tests.databases.postgresql import postgresql
from tests.eventually import eventually
from tests.fuzz import callers, records
from tests.fuzz.callers import ADMIN
from tests.fuzz.calls import Call, Outcome, send
from tests.fuzz.methods import SERVICES
from tests.fuzz.world import World, batches, everything

DATABASES = ("sqlite", "postgresql")
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Target:
    def __init__(self, process: Process, suite: Suite) -> None:
        self.process, self.suite = process, suite
        self.addresses = process.addresses
        self.channels = {name: grpc.insecure_channel(at, _OPTIONS) for name, at in self.addresses.items()}
        self.seen = records.Seen()
        self.world = World(suite, TransactionServiceStub(self.channels["accounts"]))
        self._pids = process.servers()
        self._threads = {name: _lasting_threads(pid) for name, pid in self._pids.items()}

    def send(self, server: str, call: Call) -> Outcome:
        outcome = send(self.channels[server], call)
        self.seen.note(server, call, outcome)
        return outcome

    def check_health(self) -> None:
        """All serve, in the processes and with the threads that they started with. Raises AssertionError."""
        assert self.process.servers() == self._pids, "a server died"
        for name, services in SERVICES.items():
            for service in ("", *(each.full_name for each in services if each.file.package.startswith("handfast."))):
                request = HealthCheckRequest(service=service).SerializeToString()
                outcome = self.send(name, Call("/grpc.health.v1.Health/Check", [request]))
                assert outcome.code is grpc.StatusCode.OK, f"{name}: {outcome}"
                assert HealthCheckResponse.FromString(outcome.replies[0]).status == HealthCheckResponse.SERVING
            lost = self._threads[name] - _threads(self._pids[name])
            assert not lost, f"{name} lost threads: {lost}"

    def check_data(self) -> None:
        """All that is there can be read. Raises ServiceError."""
        suite = self.suite
        ids = [user.user_id for user in everything(suite.users.ListUsers, ListUsersRequest(), "users")]
        for some in batches(ids):
            again = suite.users.BatchGetUsers(BatchGetUsersRequest(user_ids=some))
            assert [user.user_id for user in again.users] == some
        for user_id in ids:
            suite.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id, include_defaults=True))
        suite.preferences.ListPreferenceDefinitions(ListPreferenceDefinitionsRequest(page_size=10))
        suite.transactions.ListTransactions(ListTransactionsRequest(page_size=1000))
        for name in ("users", "preferences"):
            suite.stub(ParticipantServiceStub, name).ListBranches(ListBranchesRequest(page_size=1000))

    def check_records(self) -> None:
        """What callers saw, the log and the counters agree, and the log tells of nothing unforeseen. Raises
        AssertionError."""
        lines = self._lines()
        unforeseen = [line for line in lines if "exception" in line]
        assert not unforeseen, f"{len(unforeseen)} exceptions were logged, such as {unforeseen[0]}"
        logged = records.logged(lines)
        differing = {key: (code, logged.get(key)) for key, code in self.seen.codes.items() if logged.get(key) != [code]}
        assert not differing, f"{len(differing)} differ, such as {next(iter(differing.items()))}"

    def logged(self, since: int) -> dict[tuple[str, str, str], list[str]]:
        """The codes of the calls in the log from byte `since` on, by server, request id and path, once none is under
        way. Raises AssertionError where the log does not tell of all calls."""
        return records.logged(self._lines(since))

    def _lines(self, since: int = 0) -> list[dict[str, Any]]:
        assert eventually(self._counters_agree), self._differences()
        with self.process.errors.open("rb") as log:
            log.seek(since)
            return records.lines_of(log.read().decode())

    def _counters_agree(self) -> bool:
        return not self._differences()

    def _differences(self) -> dict[str, object]:
        urls = {
            name: f"http://127.0.0.1:{int(at.rpartition(':')[2]) + METRICS_PORT_OFFSET}/metrics"
            for name, at in self.addresses.items()
        }
        started, ended = records.counted(urls)
        in_log = records.Counts()
        for (server, _request_id, path), codes in records.logged(records.lines_of(self.process.stderr)).items():
            known = path if (server, path) in started else "/unknown/unknown"
            in_log.update((server, known, code) for code in codes)
        all_ended = records.Counts()
        for (server, path, _code), count in ended.items():
            all_ended[server, path] += count
        return {
            name: found
            for name, found in (
                ("started, not ended", started - all_ended),
                ("ended, not started", all_ended - started),
                ("counted, not logged", ended - in_log),
                ("logged, not counted", in_log - ended),
            )
            if found
        }

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()


def _threads(pid: int) -> Counter[str]:
    """How many threads a process has, by their names."""
    names = Counter[str]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names[(task / "comm").read_text().strip()] += 1
    return names


def _lasting_threads(pid: int) -> Counter[str]:
    """Those that do not come and go, as the watchdog of a readiness check does."""
    seen = _threads(pid)
    for _ in range(5):
        time.sleep(0.1)
        seen &= _threads(pid)
    return seen


@contextlib.contextmanager
def target(database: str, folder: Path) -> Iterator[Target]:
    """A suite of its own, as what is done to it could confuse other tests. It enforces permissions."""
    with contextlib.ExitStack() as stack:
        urls = {}
        if database == "postgresql":
            urls = stack.enter_context(postgresql()).create_databases()
        process = stack.enter_context(suite_up(folder, urls | callers.settings(folder)))
        at = process.addresses
        token = callers.token(ADMIN.subject, ADMIN.scopes)
        suite = stack.enter_context(connect(at["users"], at["preferences"], at["accounts"], token=token))
        made = Target(process, suite)
        stack.callback(made.close)
        yield made
