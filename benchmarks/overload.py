"""What is left of a server when far more is asked of it than it can do.

    at its best     as many callers as keep it busy, each with one call at a time
    crowded         ten times as many; who is refused comes again when told to
    flooded         calls sent at ten times the rate, whether or not earlier ones have come back

Prints calls a second and the time of those that were completed, in milliseconds, and both as ratios to the best. Where
there are two processors or more, the servers have one half of them and the callers the other: else a greater load would
leave the servers less of the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import ServiceError, Suite, connect
from handfast.server.cli.ports import free_first_port
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import Process, start_process, stop_process

CALLERS = 32
CONNECTIONS = 16
ACCOUNTS = 500
SETTLING = 1.0
"""Seconds of a load before what comes back is counted."""
TICK = 0.005
"""Seconds between bursts of a flood."""


LEGEND = f"""at its best: {CALLERS} callers. crowded: more of them, who come again when they are told. flooded: calls
that wait for nothing; what the server cannot even refuse, grpcio drops as CANCELLED. Neither is a fault.
"""


@dataclass(frozen=True)
class Target:
    server: str
    path: str
    request: Callable[[str], Message]
    call: Callable[[Suite, Any], object]


TARGETS = {
    "GetUser": Target(
        "users",
        "/handfast.users.v1.UserService/GetUser",
        lambda user_id: GetUserRequest(user_id=user_id),
        lambda suite, request: suite.users.GetUser(request),
    ),
    "UpdateUser": Target(
        "users",
        "/handfast.users.v1.UserService/UpdateUser",
        lambda user_id: UpdateUserRequest(user=User(user_id=user_id, display_name=uuid.uuid4().hex)),
        lambda suite, request: suite.users.UpdateUser(request),
    ),
    "UpdateUserAndPreferences": Target(
        "accounts",
        "/handfast.accounts.v1.AccountService/UpdateUserAndPreferences",
        lambda user_id: UpdateUserAndPreferencesRequest(user=User(user_id=user_id, display_name=uuid.uuid4().hex)),
        lambda suite, request: suite.accounts.UpdateUserAndPreferences(request),
    ),
}


@dataclass
class Came:
    """What came back within a time: how many of each status code, and how long those took that were completed."""

    seconds: float
    codes: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def count(self, code: str, took: float) -> None:
        self.codes[code] += 1
        if code == "OK":
            self.times.append(took * 1000)

    @property
    def completed(self) -> float:
        return self.codes["OK"] / self.seconds

    def within(self, hundredth: int) -> float:
        return statistics.quantiles(self.times, n=100)[hundredth - 1]

    def __str__(self) -> str:
        others = ", ".join(f"{count / self.seconds:.0f}/s {code}" for code, count in self.codes.items() if code != "OK")
        times = f"half in {self.within(50):.0f} ms, 99 of 100 in {self.within(99):.0f} ms"
        return f"{self.completed:6.0f}/s completed, {times}; {others}".rstrip("; ")


def callers(count: int, process: Process, target: Target, user_ids: list[str], seconds: float) -> Came:
    came, counting, ending = Came(seconds), threading.Event(), threading.Event()
    lock = threading.Lock()
    at = process.addresses

    def call(suite: Suite) -> None:
        while not ending.is_set():
            request = target.request(random.choice(user_ids))
            began = time.perf_counter()
            code, pause = "OK", 0.0
            try:
                target.call(suite, request)
            except ServiceError as error:
                code, pause = error.status.name, (error.retry_after or 0.0) * random.uniform(0.5, 1.5)
            if counting.is_set():
                with lock:
                    came.count(code, time.perf_counter() - began)
            ending.wait(pause)

    with ExitStack() as stack:
        suites = [
            stack.enter_context(connect(at["users"], at["preferences"], at["accounts"])) for _ in range(CONNECTIONS)
        ]
        threads = [threading.Thread(target=call, args=(suites[each % CONNECTIONS],)) for each in range(count)]
        for thread in threads:
            thread.start()
        time.sleep(SETTLING)
        counting.set()
        time.sleep(seconds)
        counting.clear()
        ending.set()
        for thread in threads:
            thread.join()
    return came


def flood(rate: float, process: Process, target: Target, user_ids: list[str], seconds: float) -> tuple[Came, float]:
    """And how many were sent a second: the callers may not manage as many as they should."""
    came, counting = Came(seconds), threading.Event()
    messages = [target.request(user_id) for user_id in user_ids]
    requests = [message.SerializeToString() for message in messages]
    added = _request_id_of(messages[0])

    def send(number: int) -> None:
        began = time.perf_counter()

        def done(call: Any) -> None:
            if counting.is_set():
                came.count(call.code().name, time.perf_counter() - began)

        request = requests[number % len(requests)] + b"".join(more() for more in added)
        calls[number % CONNECTIONS].future(request, timeout=10).add_done_callback(done)

    with ExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection each
        channels = [
            stack.enter_context(grpc.insecure_channel(process.addresses[target.server], options))
            for _ in range(CONNECTIONS)
        ]
        calls: list[Any] = [channel.unary_unary(target.path) for channel in channels]
        began, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < SETTLING + seconds:
            if passed >= SETTLING:
                counting.set()
            while sent < rate * passed:
                send(sent)
                sent += 1
            time.sleep(TICK)
        counting.clear()
    return came, sent / passed


def _request_id_of(message: Message) -> list[Callable[[], bytes]]:
    """What adds a new `request_id` to a serialized message that has the field, as the client would."""
    field = message.DESCRIPTOR.fields_by_name.get("request_id")
    if field is None:
        return []
    tag = bytes([field.number << 3 | 2, 36])  # a text of 36 bytes
    return [lambda: tag + str(uuid.uuid4()).encode()]


def compare(process: Process, target: Target, options: argparse.Namespace) -> None:
    with process.connect() as suite:
        user_ids = []
        for _ in range(ACCOUNTS):
            request = CreateAccountRequest(user=User(email=f"{uuid.uuid4().hex}@example.com"))
            user_ids.append(suite.accounts.CreateAccount(request).account.user.user_id)
    ratios: dict[str, list[tuple[float, float]]] = {"crowded": [], "flooded": []}
    for _ in range(options.rounds):
        best = callers(CALLERS, process, target, user_ids, options.seconds)
        print(f"  at its best  {best}", flush=True)
        for name, found in ratios.items():
            if name == "crowded":
                came = callers(options.times * CALLERS, process, target, user_ids, options.seconds)
            else:
                rate = options.times * best.completed
                came, sent = flood(rate, process, target, user_ids, options.seconds)
                print(f"  {name:<11}  {sent:6.0f}/s sent, of {rate:.0f}/s", flush=True)
            print(f"  {name:<11}  {came}", flush=True)
            found.append((came.completed / best.completed, came.within(99) / best.within(99)))
            time.sleep(SETTLING)
    print(f"  medians of {options.rounds}, against the best:")
    for name, found in ratios.items():
        completed, slower = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"  {name:<11}  {completed:.2f} x completed, {slower:.2f} x the time of 99 of 100", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10, help="how much more is asked than can be done (10)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--methods", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    half = max(1, len(processors) // 2)
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, processors[:half])  # the servers inherit it
        first_port = free_first_port()
        arguments = ("up", "--data-dir", f"{folder}/data", "--first-port", str(first_port))
        process = start_process(Path(folder, "stderr"), arguments, {}, first_port)
        try:
            process.read_until("ready")
            print(LEGEND)
            os.sched_setaffinity(0, processors[-half:])
            for name in options.methods:
                print(name)
                compare(process, TARGETS[name], options)
        finally:
            stop_process(process)


if __name__ == "__main__":
    main()
