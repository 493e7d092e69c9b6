"""What the guarantee costs: `UpdateUserAndPreferences` against the same two updates sent side by side without it.

Both run in turns on one suite, with one client and with several. Prints updates a second and the time of one, in
milliseconds, as medians over the rounds, and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import UpdateUserAndPreferencesRequest
from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import UpdateUserRequest, User
from tests.accounts.accounts import create_account
from tests.cli.processes import suite_up

ACCOUNTS_PER_CLIENT = 20
THEMES = ("dark", "light")

Update = Callable[[Suite, str, int], object]


def separately(suite: Suite, user_id: str, number: int) -> None:
    user = UpdateUserRequest(user=_user(user_id, number))
    preferences = UpdatePreferencesRequest(preferences=_preferences(user_id, number))
    calls = (suite.users.UpdateUser.future(user), suite.preferences.UpdatePreferences.future(preferences))
    for call in calls:
        call.result()


def atomically(suite: Suite, user_id: str, number: int) -> None:
    request = UpdateUserAndPreferencesRequest(user=_user(user_id, number), preferences=_preferences(user_id, number))
    suite.accounts.UpdateUserAndPreferences(request)


def _user(user_id: str, number: int) -> User:
    return User(user_id=user_id, display_name=str(number))


def _preferences(user_id: str, number: int) -> Preferences:
    return Preferences(user_id=user_id, values={"theme": Value(string_value=THEMES[number % 2])})


def measure(suite: Suite, update: Update, clients: int, seconds: float, accounts: list[str]) -> tuple[float, float]:
    """Updates a second, and the median time of one in milliseconds."""
    times: list[list[float]] = [[] for _ in range(clients)]
    end = time.perf_counter() + seconds

    def run(client: int) -> None:
        mine = accounts[client * ACCOUNTS_PER_CLIENT : (client + 1) * ACCOUNTS_PER_CLIENT]
        while (before := time.perf_counter()) < end:
            update(suite, mine[len(times[client]) % ACCOUNTS_PER_CLIENT], len(times[client]))
            times[client].append(time.perf_counter() - before)

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [each for client in times for each in client]
    return len(together) / seconds, statistics.median(together) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        suite_up(Path(folder), {}) as process,
        process.connect() as suite,
    ):
        for clients in options.clients:
            _compare(suite, clients, options.rounds, options.seconds)


def _compare(suite: Suite, clients: int, rounds: int, seconds: float) -> None:
    accounts = [create_account(suite).user.user_id for _ in range(clients * ACCOUNTS_PER_CLIENT)]
    found: dict[Update, list[tuple[float, float]]] = {separately: [], atomically: []}
    for _ in range(rounds):
        for update, results in found.items():
            results.append(measure(suite, update, clients, seconds, accounts))
    print(f"{clients} client(s), {rounds} rounds of {seconds:g} s each")
    for update, results in found.items():
        rate, milliseconds = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"  {update.__name__:<11} {rate:7.0f} updates/s  {milliseconds:7.1f} ms")
    pairs = zip(found[atomically], found[separately], strict=True)
    ratios = [(with_[0] / without[0], with_[1] / without[1]) for with_, without in pairs]
    rate, slower = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"  with the guarantee: {rate:.2f} x the updates, {slower:.2f} x the time")


if __name__ == "__main__":
    main()
