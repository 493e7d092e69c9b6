"""`make upgrade`: the last version and this one side by side, under load, for as long as it is asked to."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.databases.postgresql import postgresql
from tests.kept import folder_of_run
from tests.upgrade.last_version import NoHistory, last_version
from tests.upgrade.rolling import roll


def main() -> int:
    parser = argparse.ArgumentParser(prog="make upgrade", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of all calls, by each client, in each step")
    parser.add_argument("--version", default=None, help="the commit or tag that counts as the last version")
    parser.add_argument("--keep", type=Path, default=None, help="an empty folder for the logs of servers and clients")
    arguments = parser.parse_args()
    version = arguments.version or last_version()
    print(f"from {version}", flush=True)
    began = time.monotonic()
    try:
        with folder_of_run(arguments.keep, "upgrade") as folder, postgresql() as database:
            seen = roll(version, folder, database, arguments.rounds)
    except NoHistory as error:
        print(error, file=sys.stderr)
        return 2
    print("".join(seen.migrated), end="")
    for (of_version, method, code), number in sorted(seen.calls.items()):
        print(f"{number:>8}  {of_version:<5} {method} {code}")
    print(f"{seen.calls.total()} calls in {seen.rounds} rounds and {time.monotonic() - began:.0f} s")
    print(f"{seen.counted} counted, {seen.increments} acknowledged, {seen.unfinished} transactions left open")
    for repeated, number in seen.repeated.items():
        print(f"called again {number} times, as the service said: {repeated}")
    for failure, number in seen.failures.items():
        print(f"{number} times: {failure}")
    failed = seen.failures or seen.unfinished or seen.counted != seen.increments
    print("FAILED" if failed else "no call failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
