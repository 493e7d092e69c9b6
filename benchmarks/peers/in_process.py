"""Lets a process without a server be measured: it reads `CALLERS SECONDS` from stdin, has so many threads call for so
long, and prints how long each call took, in seconds, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count


def serve(call: Callable[[int], None]) -> None:
    """`call` is given the number of the call."""
    numbers = count()
    lock = threading.Lock()

    def caller(end: float) -> list[float]:
        times = []
        while (began := time.perf_counter()) < end:
            with lock:
                number = next(numbers)
            call(number)
            times.append(time.perf_counter() - began)
        return times

    print("ready", flush=True)
    with ThreadPoolExecutor(64) as threads:
        for line in sys.stdin:
            callers, seconds = line.split()
            end = time.perf_counter() + float(seconds)
            running = [threads.submit(caller, end) for _ in range(int(callers))]
            print(json.dumps([each for one in running for each in one.result()]), flush=True)
