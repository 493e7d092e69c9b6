"""Plants single faults in the servers, one at a time, and says which of them the tests do not notice.

cosmic-ray makes the faults (https://cosmic-ray.readthedocs.io). Each part of the servers is tried with the tests that
belong to it, on SQLite but for what is PostgreSQL's, in a copy of the working tree below `.mutate`. A whole part can
take hours; `--sample` draws so many of its faults by `--seed`, and the score is then that of the sample.

The score is how many of the faults the tests notice, in percent. What they do not notice is printed as a diff: some are
no faults at all, as they change nothing that can be seen from outside.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".mutate"
TREE = WORK / "tree"
SERVERS = "servers/handfast/server"
ON_SQLITE = ("-k", "not postgresql")
TOOLS = Path(sys.executable).parent

# Left out: changes of type annotations, and all but one replacement of each operator, as the others say no more.
LEFT_OUT = [
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_(?!(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|LShift_RShift"
    "|RShift_LShift|BitAnd_BitXor|BitXor_BitAnd)$).*",
    "core/ReplaceComparisonOperator_(?!(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_Gt|LtE_Lt|LtE_GtE|Gt_GtE|Gt_Lt|GtE_Gt|GtE_LtE"
    "|Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)$).*",
    "core/ReplaceUnaryOperator_USub_(Not|Invert)",
    "core/RemoveDecorator",
]


@dataclass(frozen=True)
class Part:
    """Some modules of the servers, below their folder, and what pytest is told to run on a fault in them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


_SIMULATION = ("tests/transactions/test_rules.py", "tests/simulation/test_simulation.py")
_TRANSACTIONS = (*_SIMULATION, "tests/transactions", "tests/accounts", "tests/cli/test_transactions.py", *ON_SQLITE)
_CHASSIS = ("tests/chassis", "tests/databases/test_interrupts.py", *ON_SQLITE)

PARTS = {
    "core": Part(("transactions/core",), _SIMULATION),
    "coordinator": Part(("transactions/coordinator",), _TRANSACTIONS),
    "participant": Part(("transactions/participant",), (*_TRANSACTIONS, "tests/users", "tests/preferences")),
    "protocol": Part(("transactions/wire.py", "transactions/horizon.py", "transactions/metrics.py"), _TRANSACTIONS),
    "data": Part(
        ("chassis/data",),
        (
            "tests/chassis/test_fair_lock.py",
            "tests/chassis/test_database_errors.py",
            "tests/databases",
            "tests/users/test_request_id.py",
        ),
    ),
    "errors": Part(
        ("chassis/errors",),
        (
            "tests/chassis/test_errors_on_the_wire.py",
            "tests/chassis/test_error_size.py",
            "tests/chassis/test_database_errors.py",
            "tests/chassis/test_calls.py",
            "tests/chassis/test_streams.py",
            *ON_SQLITE,
        ),
    ),
    "logs": Part(("chassis/logs",), ("tests/chassis/test_logs.py", "tests/chassis/test_redaction.py")),
    "observe": Part(("chassis/observe", "chassis/operations"), _CHASSIS),
    "requests": Part(
        ("chassis/requests",),
        ("tests/users", "tests/preferences", "tests/transactions/test_transaction_service.py", *ON_SQLITE),
    ),
    "calls": Part(
        tuple(f"chassis/{name}.py" for name in ("admission", "call", "clock", "handlers", "interrupts", "server")),
        _CHASSIS,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant faults in the servers, and see whether the tests notice.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default all)")
    parser.add_argument("--sample", type=int, metavar="N", help="how many faults of each part (default all)")
    parser.add_argument("--seed", type=int, help="which ones they are")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}")
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    if arguments.sample is not None:
        print(f"--seed {seed} draws the same faults again.")
    scores = {name: _try(name, arguments.sample, seed) for name in arguments.parts or PARTS}
    for name, (noticed, tried) in scores.items():
        print(f"{name:<12} {noticed} of {tried} noticed, {100 * noticed / max(1, tried):.0f} %")
    return 0


def _try(name: str, sample: int | None, seed: int) -> tuple[int, int]:
    """How many faults of a part the tests noticed, and how many were tried."""
    from cosmic_ray.work_db import WorkDB, use_db  # type: ignore[import-not-found]  # is in an environment of its own
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult  # type: ignore[import-not-found]

    part = PARTS[name]
    _copy_tree()
    tests = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *part.tests]
    started = time.monotonic()
    unchanged = subprocess.run(tests, cwd=TREE, env=_environment(), stdout=subprocess.PIPE, text=True)
    if unchanged.returncode != 0:
        raise SystemExit(f"{unchanged.stdout}\n{name}: the tests fail as things are")
    patience = round(30 + 3 * (time.monotonic() - started))

    config, session = WORK / f"{name}.toml", WORK / f"{name}.sqlite"
    command = " ".join(f"'{word}'" for word in ["tools/test-mutant.sh", str(patience), *tests])
    config.write_text(
        "[cosmic-ray]\n"
        f"module-path = {[f'{SERVERS}/{module}' for module in part.modules]}\n"
        f"timeout = {2.0 * patience}\n"
        'excluded-modules = ["**/__init__.py", "**/migrations.py", "**/tables.py"]\n'
        f'test-command = """{command}"""\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {LEFT_OUT}\n"
    )
    _cosmic_ray("cosmic-ray", "init", str(config), str(session), "--force")
    _cosmic_ray("cr-filter-operators", str(session), str(config))
    with use_db(session, WorkDB.Mode.open) as database:
        items = sorted(database.pending_work_items, key=_place)
        faults = [item.job_id for item in items if not _is_in_decorator(item)]
        chosen = set(random.Random(seed).sample(faults, min(sample or len(faults), len(faults))))
        left_out = [item.job_id for item in items if item.job_id not in chosen]
        database.set_multiple_results(left_out, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    print(f"{name}: {len(chosen)} of {len(faults)} faults", flush=True)
    _cosmic_ray("cosmic-ray", "exec", str(config), str(session))
    with use_db(session, WorkDB.Mode.open) as database:
        results = [result for _, result in database.results if result.worker_outcome is not WorkerOutcome.SKIPPED]
    survivors = [result.diff for result in results if result.test_outcome is TestOutcome.SURVIVED]
    print("\n".join([*survivors, ""]), flush=True)
    return len(results) - len(survivors), len(results)


def _place(item: Any) -> tuple[object, ...]:
    (fault,) = item.mutations
    return str(fault.module_path), fault.start_pos, fault.operator_name, fault.occurrence


def _is_in_decorator(item: Any) -> bool:
    """As in `@dataclass(frozen=True, slots=True)`, of which nothing is seen from outside."""
    (fault,) = item.mutations
    line: str = (TREE / fault.module_path).read_text().splitlines()[fault.start_pos[0] - 1]
    return line.lstrip().startswith("@")


def _cosmic_ray(*arguments: str) -> None:
    program, *rest = arguments
    subprocess.run([str(TOOLS / program), *rest], cwd=TREE, env=_environment(), check=True)


def _copy_tree() -> None:
    """What git knows of the working tree and what is new in it, so that nobody's own files are changed."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, TREE / name)


def _environment() -> dict[str, str]:
    """The copy comes before what is installed, in the tests and in the servers that they start."""
    roots = [str(TREE / root) for root in ("generated", "clients", "servers")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "PYTHONDONTWRITEBYTECODE": "1"}


if __name__ == "__main__":
    sys.exit(main())
