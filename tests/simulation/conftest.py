"""Collects garbage after each test only, as `simulate.py` does after many seeds: it takes a fifth of the time else."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def garbage_collected_late() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()
