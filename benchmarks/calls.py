"""Sides that are servers: what calls they get, and what these cost the servers' processes."""

from __future__ import annotations

import itertools
import select
import ssl
import statistics
import time
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import Turn
from benchmarks.http1 import Http1
from benchmarks.wire import Wire
from handfast.client import Suite

_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Method:
    """What is called: its path in the servers' metrics, how to connect so many callers, and the request of the nth
    call.
    """

    path: str
    connect: Callable[[int], Wire | Http1]
    request: Callable[[int], bytes]


@dataclass(frozen=True)
class Servers:
    """The processes that the calls cost, where they serve metrics, how many calls have left them work to do, and with
    what metrics are asked for by TLS.
    """

    pids: Sequence[int]
    metrics_urls: Sequence[str] = ()
    unfinished: Callable[[], int] = lambda: 0
    tls: ssl.SSLContext | None = None


class CallsFailed(Exception):
    """A call failed, or was not counted. What was measured is not what was meant to be."""


class Counted(ABC):
    """A side whose servers count what they are asked: each call of it calls each of these `paths` once."""

    def __init__(self, paths: Sequence[str], servers: Servers) -> None:
        self.servers = servers
        self._paths, self._numbers = paths, itertools.count()

    @abstractmethod
    def _call(self, callers: int, end: float) -> Iterator[float]:
        """Has so many callers call until then, and gives how many seconds each call took."""

    def turn(self, callers: int, seconds: float) -> Turn:
        counted_before = handled(self.servers)
        cpu_before, began = cpu_seconds(self.servers.pids), time.perf_counter()
        times = list(self._call(callers, began + seconds))
        elapsed = time.perf_counter() - began
        _until(lambda: not self.servers.unfinished(), "the servers do not finish what the calls have begun")
        cpu = cpu_seconds(self.servers.pids) - cpu_before
        self._check(counted_before, len(times))
        return Turn(len(times), elapsed, statistics.median(times) * 1000, cpu)

    def _check(self, before: Counter[tuple[str, str]], calls: int) -> None:
        """By the servers' own metrics no call of any method failed, and these were counted."""
        if not self.servers.metrics_urls:
            return

        def all_counted() -> bool:
            since = handled(self.servers) - before
            if failed := {key: count for key, count in since.items() if key[1] != "OK"}:
                raise CallsFailed(f"by the servers' metrics: {failed}")
            return all(since[path, "OK"] == calls for path in self._paths)

        _until(all_counted, f"the servers' metrics do not show {calls} calls")


class Calls(Counted):
    """One call of each method, all at the same time, counts as one call."""

    def __init__(self, methods: Sequence[Method], servers: Servers) -> None:
        super().__init__([method.path for method in methods], servers)
        self.methods = methods

    def turn(self, callers: int, seconds: float) -> Turn:
        with ExitStack() as stack:  # what connections cost is not counted
            self._wires = [stack.enter_context(closing(each.connect(callers))) for each in self.methods]
            return super().turn(callers, seconds)

    def _call(self, callers: int, end: float) -> Iterator[float]:
        wires = self._wires
        began, missing = [0.0] * callers, [0] * callers

        def begin(caller: int) -> None:
            number = next(self._numbers)
            began[caller], missing[caller] = time.perf_counter(), len(wires)
            for wire, method in zip(wires, self.methods, strict=True):
                if not wire.call(method.request(number), caller):
                    raise CallsFailed("there is no room for so many calls")

        for caller in range(callers):
            begin(caller)
        last = time.perf_counter()
        while any(missing):
            if time.perf_counter() > last + _PATIENCE_S:
                raise CallsFailed("calls are not answered")
            for wire in wires:
                for ended in wire.ended(0 if len(wires) > 1 else 1):
                    if ended.code != "OK":
                        raise CallsFailed(ended.code)
                    last = time.perf_counter()
                    missing[ended.caller] -= 1
                    if not missing[ended.caller]:
                        now = time.perf_counter()
                        yield now - began[ended.caller]
                        if now < end:
                            begin(ended.caller)
            if len(wires) > 1:
                for wire in wires:
                    wire.flush()
                select.select(wires, (), (), 1)


class Program(Counted):
    """What a program does with the suite by `handfast.client`, with one user after the other, as one caller."""

    def __init__(
        self, client: Suite, do: Callable[[Suite, int], object], paths: Sequence[str], servers: Servers
    ) -> None:
        super().__init__(paths, servers)
        self._do = partial(do, client)

    def _call(self, callers: int, end: float) -> Iterator[float]:
        assert callers == 1, "a program is one caller"
        began = time.perf_counter()
        while began < end:
            self._do(next(self._numbers))
            now = time.perf_counter()
            yield now - began
            began = now


def _until(done: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise CallsFailed(otherwise)
        time.sleep(0.02)


def handled(servers: Servers) -> Counter[tuple[str, str]]:
    """How many calls ended, by method and code, by what the servers count."""
    count: Counter[tuple[str, str]] = Counter()
    for url in servers.metrics_urls:
        with urllib.request.urlopen(url, context=servers.tls) as response:
            families = text_string_to_metric_families(response.read().decode())
        for sample in (sample for family in families for sample in family.samples):
            labels = sample.labels
            if sample.name == "grpc_server_handled_total":
                count[f"/{labels['grpc_service']}/{labels['grpc_method']}", labels["grpc_code"]] += int(sample.value)
            elif sample.name == "http_requests_total":
                count[labels["handler"], "OK" if labels["status"] == "2xx" else labels["status"]] += int(sample.value)
    return count


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes have used since they began: the sum of utime and stime of /proc/PID/stat, which is in
    hundredths of a second there, in nanoseconds. (The clock's number is that of clock_getcpuclockid(3).)
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)
