"""The protocol holds under seeded faults; and each of its rules is needed, as the simulation fails without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.without import WITHOUT
from tests.simulation.world import run_seed, transcript_of

SEEDS = range(200)
ENOUGH = 2000
"""Seeds within which a rule that is left out must be missed."""


@pytest.mark.parametrize("chunk", range(4))
def test_nothing_is_violated(chunk: int) -> None:
    seeds = SEEDS[chunk::4]
    print(f"seeds {list(seeds)}")
    for seed in seeds:
        failure = run_seed(seed)
        assert failure is None, "\n".join([f"seed {seed}: {failure}", *transcript_of(seed)])


SLOW = (pytest.mark.slow, pytest.mark.timeout(900))
RARE = frozenset(
    {
        "compare-and-set on the row",
        "horizon for stages",
        "next number only",
        "one statement for row and pending",
        "read again",
        "same operations on a repeated commit",
    }
)
"""Rules whose lack shows only after many seeds: `pytest -m slow tests/simulation` runs these."""


@pytest.mark.parametrize("rule", [pytest.param(rule, marks=SLOW if rule in RARE else ()) for rule in WITHOUT])
def test_each_rule_is_needed(rule: str) -> None:
    failures = (run_seed(seed, without=WITHOUT[rule]) for seed in range(ENOUGH))
    assert any(failure is not None for failure in failures)


def test_a_seed_always_goes_the_same_way() -> None:
    program = "from tests.simulation.world import transcript_of; print(*transcript_of(11), sep='\\n')"

    def transcript(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    first = transcript("1")
    assert first.count("\n") > 100
    assert transcript("2") == first
