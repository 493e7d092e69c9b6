"""Keeps child processes running: starts them, waits until all are ready, restarts what dies, ends all together.

One asyncio loop holds all state. A child is in a session of its own, so that Ctrl-C in a terminal reaches the
supervisor alone, which then ends the children in its own time. Its stdin is a pipe that nobody writes to: its end
tells the child that the supervisor is gone. Its stdout is our stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handfast.server.process.stopping import SUPERVISED, when_asked_to_stop

HANDFAST = (sys.executable, "-P", "-m", "handfast.server.cli.main")
"""The `handfast` command as a child of this process; -P, so that nothing is imported from the working folder."""

FIRST_RESTART_DELAY = 0.1
"""Seconds before the first restart; each further one waits twice as long, up to the longest."""
LONGEST_RESTART_DELAY = 5.0
STEADY_AFTER = 10.0
"""A child that has run for so many seconds starts over with the first delay."""
KILL_MARGIN = 5.0
"""Seconds beyond the grace period after which a child that has not ended is killed."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and under which name to speak of it. `environment` is complete. `needs` names the programs that it
    calls: they are asked to end only when it has ended, so that what it is doing can finish.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    needs: Sequence[str] = ()


def supervise(programs: Sequence[Program], *, grace: float, on_ready: Callable[[], None]) -> int:
    """Runs until this process is asked to stop, then returns 0 with all children ended.

    A child is ready when it has sent `READY=1` (sd_notify). `on_ready` is called once, when all are. A child that
    ends before that ends the whole: 1. A child that ends later is restarted.
    """
    return asyncio.run(_Supervisor(programs, grace).run(on_ready))


class _Supervisor:
    def __init__(self, programs: Sequence[Program], grace: float) -> None:
        self._programs = programs
        self._grace = grace
        self._stop = asyncio.Event()
        self._ended = {program.name: asyncio.Event() for program in programs}
        self._all_ready = False
        self._failed = False

    async def run(self, on_ready: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        when_asked_to_stop(lambda: loop.call_soon_threadsafe(self._stop.set))
        # A socket's path may have some 100 bytes, which below TMPDIR it could exceed.
        with tempfile.TemporaryDirectory(prefix="handfast-", dir="/tmp") as folder:
            async with asyncio.TaskGroup() as tasks:
                ready = []
                for program in self._programs:
                    ready.append(asyncio.Event())
                    keeping = tasks.create_task(self._keep(program, Path(folder, program.name), ready[-1]))
                    keeping.add_done_callback(functools.partial(self._note_end, program))
                if await self._unless_stopped(_all(ready)):
                    self._all_ready = True
                    on_ready()
        return 1 if self._failed else 0

    def _note_end(self, program: Program, _keeping: object) -> None:
        self._ended[program.name].set()

    async def _keep(self, program: Program, notify_address: Path, ready: asyncio.Event) -> None:
        """Runs one program again and again, until asked to stop."""
        loop = asyncio.get_running_loop()
        delay = FIRST_RESTART_DELAY
        async with _listen(notify_address, ready.set):
            while not self._stop.is_set():
                started = loop.time()
                process = await _start(program, notify_address)
                try:
                    ended_by_itself = await self._unless_stopped(process.wait())
                finally:
                    await self._end(program, process)
                if not ended_by_itself:
                    return
                outcome = {"pid": process.pid, "exit_code": process.returncode}
                if not self._all_ready:
                    _log("server ended before all were ready, stopping", program, **outcome)
                    self._failed = True
                    self._stop.set()
                    return
                if loop.time() - started >= STEADY_AFTER:
                    delay = FIRST_RESTART_DELAY
                _log("server ended, restarting", program, **outcome, restart_delay_s=delay)
                await self._unless_stopped(asyncio.sleep(delay))
                delay = min(2 * delay, LONGEST_RESTART_DELAY)

    async def _unless_stopped(self, awaitable: Awaitable[object]) -> bool:
        """Waits for it to be done, or until asked to stop. False when asked to stop."""
        task = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        stop.cancel()
        return not self._stop.is_set()

    async def _end(self, program: Program, process: asyncio.subprocess.Process) -> None:
        """Asks the process to end, and kills it if it does not in time. Does nothing where it has ended."""
        if process.returncode is not None:
            return
        for other in self._programs:
            if program.name in other.needs:
                await self._ended[other.name].wait()
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._grace + KILL_MARGIN)
        except TimeoutError:
            _log("server does not end, killing it", program, pid=process.pid)
            process.kill()
            await process.wait()


async def _all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


async def _start(program: Program, notify_address: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *program.command,
        env={**program.environment, SUPERVISED: "1", "NOTIFY_SOCKET": str(notify_address)},
        stdin=subprocess.PIPE,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
    )


class _Readiness(asyncio.DatagramProtocol):
    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready

    def datagram_received(self, data: bytes, addr: object) -> None:
        if b"READY=1" in data.splitlines():
            self._on_ready()


@contextlib.asynccontextmanager
async def _listen(address: Path, on_ready: Callable[[], None]) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Readiness(on_ready), local_addr=str(address), family=socket.AF_UNIX
    )
    try:
        yield
    finally:
        transport.close()


def _log(event: str, program: Program, **details: object) -> None:
    """One JSON object on one line, shaped like the servers' own logs."""
    timestamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"timestamp": timestamp, "level": "error", "event": event, "service": program.name, **details}
    print(json.dumps(record), file=sys.stderr, flush=True)
