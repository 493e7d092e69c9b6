"""What grpc-go callers see of servers that are asked for more than they can do.

ghz keeps 2, 5 and 10 times as many calls under way as a server takes, on one connection and on ten. Its callers heed no
RetryInfo: who is refused comes again at once. Prints how many calls were completed in a second, and in a second of the
servers' processors, both also as ratios to what 32 callers get; the latter holds where other programs use the machine,
too. Prints as well how many of all calls were not counted with the code that ghz saw.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from datetime import datetime
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.overload import CALLERS, SETTLING, TARGETS, Came, Target
from handfast.client import Suite
from handfast.server.process.settings import ServerSettings
from tests.accounts.accounts import create_account
from tests.cli.processes import Process, suite_up
from tests.project.commands import find_tool

ACCOUNTS = 100
CAPACITY = ServerSettings.threads + ServerSettings.queue
TIMES = (2, 5, 10)
_ANY_USER, _ANY_UUID = "any-user", "{{newUUID}}"


def ask(ghz: Path, address: str, target: Target, data: str, callers: int, connections: int, seconds: float) -> Came:
    """What ended once the load had settled; `codes` and `sent` count all, until the last call has ended."""
    command: list[str | Path] = [ghz, "--insecure", "--format", "json", "--duration-stop", "wait"]
    command += ["--duration", f"{SETTLING + seconds}s", "--concurrency", str(callers), "--connections"]
    command += [str(connections), "--call", target.path.removeprefix("/"), "--data", data, address]
    began = time.time()
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    came = Came(seconds, Counter(report["statusCodeDistribution"]), sent=report["count"])
    first = min(_began(call) for call in report["details"])
    assert first >= began
    for call in report["details"]:
        if call["status"] == "OK" and SETTLING <= _began(call) + call["latency"] / 1e9 - first < SETTLING + seconds:
            came.times.append(call["latency"] / 1e6)
    return came


def _began(call: dict[str, str]) -> float:
    return datetime.fromisoformat(call["timestamp"]).timestamp()


def data_of(target: Target, user_ids: list[str]) -> str:
    """The request as ghz's template: some user, and ids of which each call has its own."""
    request = target.request(_ANY_USER)
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        setattr(request, "request_id", _ANY_UUID)  # noqa: B010  # not every request has one
    some = " ".join(f"`{user_id}`" for user_id in user_ids)
    user = f"{{{{index (list {some}) (randInt 0 {len(user_ids)})}}}}"
    return MessageToJson(request, indent=None).replace(_ANY_USER, user)


def counted(metrics_url: str, path: str) -> Counter[str]:
    """The ends of the method's calls, by code, since the server began."""
    with urllib.request.urlopen(metrics_url) as response:
        families = text_string_to_metric_families(response.read().decode())
    service, method = path.removeprefix("/").split("/")
    return Counter(
        {
            sample.labels["grpc_code"]: int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == "grpc_server_handled_total"
            and (sample.labels["grpc_service"], sample.labels["grpc_method"]) == (service, method)
        }
    )


def processor_seconds(process: Process) -> float:
    """What all servers have used since they began."""
    stats = [
        Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split() for server in process.servers().values()
    ]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")  # utime, stime


def compare(ghz: Path, process: Process, suite: Suite, name: str, options: argparse.Namespace) -> None:
    target = TARGETS[name]
    address = process.addresses[target.server]
    host, port = address.split(":")
    metrics_url = f"http://{host}:{int(port) + 100}/metrics"
    data = data_of(target, [create_account(suite).user.user_id for _ in range(ACCOUNTS)])
    best = best_of_processor = 0.0
    ratios: dict[tuple[int, int], list[tuple[float, float]]] = {}
    loads = [(1, 10), *((times, connections) for times in TIMES for connections in (1, 10))]
    for _ in range(options.rounds):
        for times, connections in loads:
            before, used = counted(metrics_url, target.path), processor_seconds(process)
            callers = CALLERS if times == 1 else times * CAPACITY
            came = ask(ghz, address, target, data, callers, connections, options.seconds)
            time.sleep(SETTLING)  # what was counted last is there
            completed = len(came.times) / came.seconds
            of_processor = came.codes["OK"] / (processor_seconds(process) - used)
            if times == 1:
                best, best_of_processor = completed, of_processor
            ratios.setdefault((times, connections), []).append((completed / best, of_processor / best_of_processor))
            lost = sum((came.codes - (counted(metrics_url, target.path) - before)).values())
            print(
                f"  {callers:4d} callers on {connections:2d}: {completed:5.0f}/s completed, {of_processor:5.0f} in a "
                f"second of processors, 99 of 100 in {came.within(99):.0f} ms; in all {dict(came.codes)}, of which "
                f"{lost} not counted",
                flush=True,
            )
    print(f"  medians of {options.rounds}, against the best:")
    for (times, connections), found in ratios.items():
        completed, of_processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"  {times:2d} times on {connections:2d}: {completed:.2f} x completed, "
            f"{of_processor:.2f} x in a second of processors",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--methods", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    ghz = find_tool("ghz")
    if ghz is None:
        parser.error("ghz is neither in .tools/bin nor on the PATH; `make ghz` builds it where Go is installed")
    with tempfile.TemporaryDirectory() as folder, suite_up(Path(folder), {}) as process, process.connect() as suite:
        for name in options.methods:
            print(name)
            compare(ghz, process, suite, name, options)


if __name__ == "__main__":
    main()
