from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.mutation.faults import EQUIVALENT, Fault, equivalent_changes, faults_of
from tools.mutation.parts import PARTS, Part
from tools.mutation.trial import Copy, adopt_orphans

SERVERS = Path("servers/handfast/server")


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
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scores: dict[str, list[bool]] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
            copy = Copy(Path(folder))
            for name in arguments.parts or PARTS:
                _try(name, copy, arguments.sample, seed, scores.setdefault(name, []))
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        for name, noticed in scores.items():
            share = 100 * sum(noticed) / max(1, len(noticed))
            print(f"{name:<12} {sum(noticed)} of {len(noticed)} noticed, {share:.0f} %")
    return 0


def _try(name: str, copy: Copy, sample: int | None, seed: int, noticed: list[bool]) -> None:
    """Adds for each fault that is tried whether the tests noticed it."""
    tests = PARTS[name].tests
    faults = _faults(PARTS[name], copy)
    chosen = random.Random(seed).sample(faults, len(faults) if sample is None else min(sample, len(faults)))
    print(f"{name}: {len(chosen)} of {len(faults)} faults", flush=True)

    started = time.monotonic()
    if (failed := copy.test_unchanged(tests)) is not None:
        raise SystemExit(f"{failed}\n{name}: the tests fail as things are")
    patience = 30 + 3 * (time.monotonic() - started)
    for fault in chosen:
        printed = copy.test(fault, tests, patience)
        noticed.append(printed is not None)
        print(f"NOT NOTICED\n{fault.diff()}" if printed is None else f"noticed: {_failed(printed)}", flush=True)


def _faults(part: Part, copy: Copy) -> list[Fault]:
    """All but those that are known to be none. Says which of these are not there any more."""
    modules = {
        path.relative_to(copy.tree)
        for module in part.modules
        for path in (copy.tree / SERVERS).glob(module)
        if path.name not in part.without
    }
    faults = [fault for module in sorted(modules) for fault in faults_of(copy.tree, module)]
    equivalent = equivalent_changes(SERVERS, modules)
    for module, *lines in equivalent - {(fault.module, *fault.lines()) for fault in faults}:
        print(f"{EQUIVALENT.name} lists what is no change of {module} any more: {' → '.join(lines)}")
    return [fault for fault in faults if (fault.module, *fault.lines()) not in equivalent]


def _failed(printed: str) -> str:
    """The test that failed, or all that was printed where none is named."""
    named = re.search(r"^(?:FAILED|ERROR) (\S+\.py.*?)(?: - |$)", printed, re.MULTILINE)
    return named[1] if named else printed


if __name__ == "__main__":
    sys.exit(main())
