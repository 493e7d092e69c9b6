"""The `handfast` command, run to its end, left running, or shared as a suite that is up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handfast.server.cli.ports import free_first_port
from tests.cli.processes import Process, Result, run_process, start_process, stop_process, suite_up


@pytest.fixture
def handfast() -> Callable[..., Result]:
    """Runs a command to its end: `handfast("serve", "users", HANDFAST_THREADS="8")`."""

    def run(*arguments: str, **environment: str) -> Result:
        return run_process(arguments, environment)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a command and leaves it running, until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, first_port: int = 0, **environment: str) -> Process:
            process = start_process(tmp_path / "stderr", arguments, environment, first_port)
            stack.callback(stop_process, process)
            return process

        yield start


@pytest.fixture
def up(start: Callable[..., Process], tmp_path: Path) -> Callable[..., Process]:
    """Starts `handfast up` on free ports, with its data in the test's own folder."""

    def up(*arguments: str, first_port: int = 0, **environment: str) -> Process:
        first_port = first_port or free_first_port()
        return start(
            "up",
            "--data-dir",
            str(tmp_path / "data"),
            "--first-port",
            str(first_port),
            *arguments,
            first_port=first_port,
            **environment,
        )

    return up


@pytest.fixture
def unread() -> Iterator[int]:
    """A descriptor to write to that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A suite that is ready, shared by the tests of a module, which leave it as it is."""
    with suite_up(tmp_path_factory.mktemp("suite"), {}) as process:
        yield process
