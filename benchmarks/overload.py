"""What is left of a server when far more is asked of it than it can do.

First some callers, each with one call at a time, find out how many calls a second the server completes at its best.
Then calls are sent at ten times that rate, whether or not earlier ones have come back. Prints both, and their ratios:
what is completed, and how long it takes what is admitted. Half of the processors serve, the others send.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import Suite
from handfast.server.cli.ports import free_first_port
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import start_process, stop_process

CALLERS = 32
ACCOUNTS = 200
TICK = 0.005
"""Seconds between bursts of the steady stream."""
METHODS: dict[str, Callable[[str], Message]] = {
    "GetUser": lambda user_id: GetUserRequest(user_id=user_id),
    "UpdateUser": lambda user_id: UpdateUserRequest(user=User(user_id=user_id, display_name=uuid.uuid4().hex)),
}


@dataclass
class Calls:
    """What came back, by status code, and how long it took what was completed, in seconds."""

    seconds: float
    codes: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    sent: int = 0

    @property
    def completed(self) -> float:
        return self.codes["OK"] / self.seconds

    def percentile(self, hundredth: int) -> float:
        """In milliseconds."""
        return statistics.quantiles(self.times, n=100)[hundredth - 1] * 1000

    def __str__(self) -> str:
        others = ", ".join(f"{count / self.seconds:.0f} {code}" for code, count in self.codes.items() if code != "OK")
        return (
            f"sent {self.sent / self.seconds:7.0f}/s, completed {self.completed:6.0f}/s "
            f"in {self.percentile(50):.1f} ms (99 of 100 in {self.percentile(99):.1f} ms)"
            f"{'; ' + others if others else ''}"
        )


class Caller:
    """Sends calls of one method without waiting for their ends, and counts those that end while it looks."""

    def __init__(self, channel: grpc.Channel, path: str, requests: list[bytes]) -> None:
        self._call: Any = channel.unary_unary(path)
        self._requests = requests
        self._number = 0
        self._counting: Calls | None = None

    def send(self, then: Callable[[], None] = lambda: None) -> None:
        self._number += 1
        began = time.perf_counter()
        if self._counting is not None:
            self._counting.sent += 1

        def done(call: Any) -> None:
            code = call.code().name
            if (counting := self._counting) is not None:
                counting.codes[code] += 1
                if code == "OK":
                    counting.times.append(time.perf_counter() - began)
            then()

        self._call.future(self._requests[self._number % len(self._requests)], timeout=30).add_done_callback(done)

    @contextmanager
    def counting(self, seconds: float) -> Iterator[Calls]:
        calls = Calls(seconds)
        self._counting = calls
        yield calls
        self._counting = None


def at_its_best(caller: Caller, seconds: float) -> Calls:
    ending = threading.Event()

    def again() -> None:
        if not ending.is_set():
            caller.send(again)

    for _ in range(CALLERS):
        caller.send(again)
    time.sleep(1)
    with caller.counting(seconds) as calls:
        time.sleep(seconds)
    ending.set()
    return calls


def at_a_rate(caller: Caller, rate: float, seconds: float) -> Calls:
    def stream(lasting: float) -> None:
        began, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < lasting:
            while sent < rate * passed:
                caller.send()
                sent += 1
            time.sleep(TICK)

    stream(1)
    with caller.counting(seconds) as calls:
        stream(seconds)
    return calls


def compare(suite: Suite, address: str, name: str, times: float, seconds: float, rounds: int) -> None:
    user_ids = []
    for _ in range(ACCOUNTS):
        request = CreateAccountRequest(user=User(email=f"{uuid.uuid4().hex}@example.com"))
        user_ids.append(suite.accounts.CreateAccount(request).account.user.user_id)
    requests = [METHODS[name](user_id).SerializeToString() for user_id in user_ids]
    completed, slower = [], []
    for _ in range(rounds):
        with grpc.insecure_channel(address) as channel:
            caller = Caller(channel, f"/handfast.users.v1.UserService/{name}", requests)
            best = at_its_best(caller, seconds)
            time.sleep(1)
            crowded = at_a_rate(caller, times * best.completed, seconds)
        print(f"{name}\n  at its best  {best}\n  crowded      {crowded}", flush=True)
        completed.append(crowded.completed / best.completed)
        slower.append(crowded.percentile(99) / best.percentile(99))
        time.sleep(2)
    print(
        f"  median of {rounds}: {statistics.median(completed):.2f} x the completed calls, "
        f"{statistics.median(slower):.2f} x the time (99 of 100)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=float, default=10, help="how much more is sent than can be done (10)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first_port = free_first_port()
        arguments = ("up", "--data-dir", f"{folder}/data", "--first-port", str(first_port))
        process = start_process(Path(folder, "stderr"), arguments, {}, first_port)
        try:
            process.read_until("ready")
            with process.connect() as suite:
                for name in options.methods:
                    compare(suite, process.addresses["users"], name, options.times, options.seconds, options.rounds)
        finally:
            stop_process(process)


if __name__ == "__main__":
    main()
