"""Keeps child processes running: starts them, waits until all are ready, restarts what dies, ends all together.

One asyncio loop holds all state. A child is in a session of its own, so that Ctrl-C in a terminal reaches the
supervisor alone, which then ends the children in its own time. Its stdin is one end of a pair of sockets: there it
says that it is ready, and the end of what it reads there tells it that the supervisor is gone. So there is no file
that a killed supervisor could leave behind. Its stdout is our stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from handfast.server.process.supervision import READY, SUPERVISED, when_asked_to_stop

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
    """A program to run.

    `name` is its name in the log. `command` and `environment` are those of the process; `again` is added to the
    environment when it is restarted. `needs` names the programs that it calls: they are asked to end only after it has
    ended, so that it can finish its work.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    needs: Sequence[str] = ()
    again: Mapping[str, str] = field(default_factory=dict)


def supervise(programs: Sequence[Program], *, grace: float, on_ready: Callable[[], None]) -> int:
    """Runs the programs until this process is asked to stop. Returns 0 when all have ended then.

    A child is ready when it has reported so (`handfast.server.process.supervision.notify`). `on_ready` is called once,
    when all children are ready; if it raises, all are ended, and the error is raised here. If a child ends before that,
    all are ended, and 1 is returned. A child that ends later is restarted. A child that is asked to end has `grace`
    seconds for it, and KILL_MARGIN more before it is killed.
    """
    return asyncio.run(_Supervisor(programs, grace).run(on_ready))


class _Supervisor:
    def __init__(self, programs: Sequence[Program], grace: float) -> None:
        self._programs = programs
        self._grace = grace
        self._stop = asyncio.Event()
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._starting = {program.name for program in programs}
        self._all_ready = asyncio.Event()
        self._failed = False

    async def run(self, on_ready: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        when_asked_to_stop(lambda: loop.call_soon_threadsafe(self._stop.set))
        failure = None
        async with asyncio.TaskGroup() as tasks:
            for program in self._programs:
                self._keeping[program.name] = tasks.create_task(self._keep(program))
            if await self._unless_stopped(self._all_ready.wait()):
                try:
                    on_ready()
                except Exception as error:  # raised when all have ended, and not as a group
                    failure = error
                    self._stop.set()
        if failure:
            raise failure
        return 1 if self._failed else 0

    async def _keep(self, program: Program) -> None:
        """Runs one program again and again, until asked to stop."""
        loop = asyncio.get_running_loop()
        delay = FIRST_RESTART_DELAY
        while not self._stop.is_set():
            started = loop.time()
            outcome = await self._run_once(program)
            if outcome is None:
                return
            if not self._all_ready.is_set():
                _log("server ended before all were ready, stopping", program, **outcome)
                self._failed = True
                self._stop.set()
                return
            if loop.time() - started >= STEADY_AFTER:
                delay = FIRST_RESTART_DELAY
            was_asked = outcome.get("exit_code") in (0, -signal.SIGTERM)
            _log(
                "server ended, restarting", program, "info" if was_asked else "error", **outcome, restart_delay_s=delay
            )
            await self._unless_stopped(asyncio.sleep(delay))
            program = replace(program, environment={**program.environment, **program.again})
            delay = min(2 * delay, LONGEST_RESTART_DELAY)

    async def _run_once(self, program: Program) -> dict[str, object] | None:
        """Runs it once. Returns how it ended, for the log; None where this process was asked to stop and ended it."""
        environment = {name: value for name, value in program.environment.items() if name != "NOTIFY_SOCKET"}
        ours, its = socket.socketpair()
        with contextlib.closing(ours):
            with contextlib.closing(its):
                try:
                    process = await asyncio.create_subprocess_exec(
                        *program.command,
                        env={**environment, SUPERVISED: "1"},
                        stdin=its.fileno(),
                        stdout=sys.stderr.fileno(),
                        start_new_session=True,
                    )
                except OSError as error:
                    return {"error": str(error)}
            reader, writer = await asyncio.open_connection(sock=ours)
            hearing = asyncio.create_task(self._hear(program, reader))
            try:
                if await self._unless_stopped(process.wait()):
                    return {"pid": process.pid, "exit_code": process.returncode}
                return None
            finally:
                await self._end(program, process)
                hearing.cancel()
                writer.close()

    async def _hear(self, program: Program, reader: asyncio.StreamReader) -> None:
        """Notes when the program says that it is ready."""
        async for line in reader:
            if line.strip() == READY.encode():
                self._starting.discard(program.name)
                if not self._starting:
                    self._all_ready.set()

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
        if callers := [self._keeping[other.name] for other in self._programs if program.name in other.needs]:
            await asyncio.wait(callers)
        # It may end by itself at any time.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._grace + KILL_MARGIN)
        except TimeoutError:
            _log("server does not end, killing it", program, pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _log(event: str, program: Program, level: str = "error", /, **details: object) -> None:
    """One JSON object on one line, shaped like the servers' own logs."""
    timestamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"timestamp": timestamp, "level": level, "event": event, "service": program.name, **details}
    with contextlib.suppress(OSError):  # that nobody reads it any more is no reason to stop
        print(json.dumps(record), file=sys.stderr, flush=True)
