"""The protocol holds under seeded faults; and each of its rules is needed, as the simulation fails without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.simulation.profiles import PROFILES
from tests.simulation.without import WITHOUT
from tests.simulation.world import run_seed, transcript_of

SEEDS = 40
"""Of each profile."""
ENOUGH = 1000
"""Seeds within which a rule that is left out must be missed; a few are enough, for most."""
MISFIT = re.compile(r"\b(TypeError|KeyError|AttributeError)\(")
"""How a patch fails that was written for other code than there is. That shows nothing of the rule."""

pytestmark = pytest.mark.timeout(600)  # it computes all the time, so a busy machine makes it slow


def holds(seed: int, profile: str) -> None:
    failure = run_seed(seed, profile)
    assert failure is None, "\n".join([f"seed {seed}, {profile}: {failure}", *transcript_of(seed, profile)])


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_violated(profile: str) -> None:
    print(f"seeds 0-{SEEDS - 1}, {profile}")
    for seed in range(SEEDS):
        holds(seed, profile)


@pytest.mark.parametrize("rule", WITHOUT)
def test_each_rule_is_needed(rule: str) -> None:
    without = WITHOUT[rule]
    for seed in range(ENOUGH):
        failure = run_seed(seed, without=without)
        if failure is not None:
            print(f"seed {seed}, {without.profile}: {failure}")
            assert not MISFIT.search(failure), f"what leaves the rule out does not fit the servers any more: {failure}"
            holds(seed, without.profile)
            return
    pytest.fail(f"seeds 0-{ENOUGH - 1}, {without.profile}: nothing is violated without it")


MET: dict[str, dict[str, str]] = {
    "general": {
        "a plain write is repeated under its request id": r"network +repeats UpdateUser #\d+$",
        "two account calls have the same request id": r"abort_reason=REQUEST_REPEATED",
        "an email is taken": r"answers .*ALREADY_EXISTS: .*email",
        "several branches are finished in one local transaction": (
            r"commits users\.branches T\d+: .*FINISHED.*\n.*commits users\.branches T\d+: .*FINISHED"
        ),
        "a list shows users": r"answers ListUsers #\d+: OK users",
        "an account is read": r"answers GetAccount #\d+: OK",
        "an account call makes way for another and runs again": r"accounts-\d +waits",
        "a connection breaks before a commit": r"breaks the connection of .* before a commit",
        "a connection breaks after a commit": r"breaks the connection of .* after a commit",
        "a process crashes between two statements": r"CRASHES between two statements",
        "a client asks what became of its commit": r"answers GetTransaction #\d+: OK .*state=(COMMITTED|ABORTED)",
        "a transaction is forgotten": r"answers BatchGetTransactions #\d+: OK .*state=FORGOTTEN",
    },
    "swaps": {
        "an email has a pending change": r"answers .*ABORTED: A unique value of",
        "one transaction changes several rows of a participant": (
            r"commits users\.users u1: .*\n.*commits users\.users u2: "
        ),
    },
    "careless": {
        "a commit is repeated with other operations": r"answers CommitTransaction .*committed with other operations",
    },
    "skew": {
        "a write waits for a younger transaction": r"users-\d +waits until",
        "what a transaction has read is locked": r"commits users\.users u1: read_locks=1",
        "two transactions lock the same": r"commits \w+\.\w+ u1: read_locks=2",
        "what a transaction has read has changed": r"answers LockReads .*ABORTED: .* has changed since",
        "what is read again is locked first": r"answers LockResources #\d+ \(.*\): OK",
        "what a transaction has read is compared": r"answers CompareReads #\d+: OK $",
        "a caller runs a transaction again": r"client-\d+ +waits",
        "a caller begins transactions ahead": r"sends BeginTransaction .*further=32",
        "a caller dies within a transaction": r"has died in the middle of T",
    },
    "moves": {
        "one operation changes two kinds": r"commits bank\.operations T\d+ 1 \d: kind=entries",
        "aliases are swapped": r"commits bank\.claims alias:a1: holder=a[234]",
        "a resource is deleted beside changed ones": r"commits bank\.entries a\d/\d+: deleted",
        "a write locks what it looks at": r"commits bank\.operations T\d+ \d 3: kind=accounts",
        "what a transaction has read of two kinds is locked": r"sends LockReads .*accounts/.*entries/",
        "two writes lock the same in another order": r"rolls bank-\d back, which is in a deadlock",
        "a move is refused": r"answers Move .*FAILED_PRECONDITION: a\d has \d left",
    },
    "lookers": {
        "a write locks what it looks at": r"commits users\.operations T\d+ 1 2: ",
    },
}
"""What the schedules of a profile must contain, as their transcripts put it."""


@pytest.mark.parametrize("profile", MET)
def test_the_schedules_contain_what_matters(profile: str) -> None:
    missing = MET[profile]
    for seed in range(ENOUGH):
        transcript = "\n".join(transcript_of(seed, profile))
        missing = {what: line for what, line in missing.items() if not re.search(line, transcript, re.MULTILINE)}
        if not missing:
            print(f"seeds 0-{seed}, {profile}")
            return
    pytest.fail(f"seeds 0-{ENOUGH - 1}, {profile}: nowhere {', nowhere '.join(missing)}")


def test_a_seed_always_goes_the_same_way() -> None:
    program = "from tests.simulation.world import transcript_of; print(*transcript_of(11, 'transactions'), sep='\\n')"

    def transcript(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    first = transcript("1")
    assert first.count("\n") > 100
    assert transcript("2") == first
