"""For tests that run in several processes at once, the workers of pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

_ended_early = pytest.StashKey[bool]()


def share(ports: Sequence[int]) -> Sequence[int]:
    """Those of the ports that this worker may take, and no other; all where there are no workers."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return ports[worker % workers :: workers]  # one that replaces another has a higher number


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Where a worker ends between tests, pytest-xdist says so, but counts it as nothing."""
    if error:
        node.config.stash[_ended_early] = True  # type: ignore[attr-defined]  # xdist has no types of its nodes


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(_ended_early, False):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
