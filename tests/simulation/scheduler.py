"""Virtual time: tasks that run one at a time, and processes that can be killed.

A task is a greenlet. It runs until it sleeps, waits for an answer or for a lock; which one goes on next is settled by
the times at which events are due, and those by the seed. So the order of everything is a function of the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import greenlet

START = 1_700_000_000_000_000
"""Microseconds since the epoch."""
SECOND = 1_000_000
ENDLESS = 30_000
"""So many events mean that something goes round in circles; a seed has some thousands."""


class Process:
    """Something that can crash. Its clock is wrong by `skew` microseconds."""

    def __init__(self, name: str, skew: int = 0) -> None:
        self.name, self.skew = name, skew
        self.alive = True
        self.tasks: dict[Task, None] = {}


class Task(greenlet.greenlet):
    """Something that a process does."""

    process: Process
    ticket = 0
    request: Any = None
    """The call that it serves, if it serves one."""


class Endless(Exception):
    """There is always something due."""


class Scheduler:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = START
        self.stopped = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._hub = greenlet.getcurrent()

    def after(self, microseconds: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + microseconds, self._count, action))

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Lets everything happen until nothing more is due, or `until` is true. Raises Endless."""
        queue = self._queue
        while queue and not self.stopped and not until():
            if self._count > ENDLESS:
                raise Endless
            self.now, _, action = heapq.heappop(queue)
            action()

    def forget(self) -> None:
        """Forgets all that is due."""
        self._queue.clear()

    def spawn(self, process: Process, function: Callable[[], None], request: Any = None) -> Task:
        """A task of a process; it starts at once, but for what is due now already."""

        def body() -> None:
            try:
                function()
            finally:
                process.tasks.pop(task, None)

        task = Task(body, parent=self._hub)
        task.process, task.request = process, request
        process.tasks[task] = None
        self.after(0, lambda: self._switch(task, task.ticket))
        return task

    @staticmethod
    def current() -> Task:
        task = greenlet.getcurrent()
        assert isinstance(task, Task)
        return task

    def sleep(self, microseconds: int) -> None:
        self.after(microseconds, self.waker())
        self.park()

    def waker(self) -> Callable[[], None]:
        """Ends the current task's next `park`; after that it does nothing."""
        task = self.current()
        ticket = task.ticket
        return lambda: self._switch(task, ticket)

    def park(self) -> None:
        """Stops the current task until it is woken."""
        task = self.current()
        if not task.process.alive:
            raise greenlet.GreenletExit
        self._hub.switch()
        task.ticket += 1

    def _switch(self, task: Task, ticket: int) -> None:
        if task.ticket == ticket and not task.dead and task.process.alive:
            task.switch()

    def crash(self, process: Process) -> None:
        """Ends a process: nothing of what its tasks were about to do happens any more."""
        process.alive = False
        for task in list(process.tasks):
            if task:
                task.throw(greenlet.GreenletExit)
        process.tasks.clear()
