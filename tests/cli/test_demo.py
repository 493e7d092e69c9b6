"""`handfast demo`: shows an atomic commit, and one that is refused, on any suite."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from handfast.server.cli.ports import free_first_port
from handfast.users.v1.users_pb2 import ListUsersRequest
from tests.cli.processes import Process, Result


def _addresses(suite: Process) -> dict[str, str]:
    return {f"HANDFAST_{server.upper()}_ADDRESS": address for server, address in suite.addresses.items()}


@pytest.mark.parametrize("run", ["first", "second"])
def test_the_demo_runs_on_a_running_suite_as_often_as_one_likes(
    handfast: Callable[..., Result], suite: Process, run: str
) -> None:
    result = handfast("demo", **_addresses(suite))
    assert (result.status, result.stderr) == (0, ""), run
    assert "\033" not in result.stdout
    assert re.findall(r"^(\d)\. ", result.stdout, re.MULTILINE) == ["1", "2", "3", "4"]
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert len(re.findall(rf"transaction +{uuid} committed$", result.stdout, re.MULTILINE)) == 3
    assert re.search(r"display name 'Ada Lovelace' -> 'Countess of Lovelace'$", result.stdout, re.MULTILINE)
    assert re.search(r"refused by +handfast.preferences, INVALID_ARGUMENT \w+$", result.stdout, re.MULTILINE)
    assert re.search(r"request id +\S+$", result.stdout, re.MULTILINE)
    assert re.search(r"users +display name is still 'Countess of Lovelace'$", result.stdout, re.MULTILINE)


def test_the_demo_leaves_no_account_behind(handfast: Callable[..., Result], suite: Process) -> None:
    handfast("demo", **_addresses(suite))
    with suite.connect() as services:
        assert not services.users.ListUsers(ListUsersRequest()).users


def test_the_demo_starts_a_suite_where_none_runs_and_reaches_it_by_no_proxy(handfast: Callable[..., Result]) -> None:
    nobody = f"http://127.0.0.1:{free_first_port()}"
    result = handfast("demo", http_proxy=nobody, https_proxy=nobody, no_proxy="", no_grpc_proxy="")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.endswith("Done: what spans services commits everywhere or nowhere.\n")


def test_the_demo_says_which_server_does_not_answer(handfast: Callable[..., Result], suite: Process) -> None:
    nobody = f"127.0.0.1:{free_first_port()}"
    result = handfast("demo", "--preferences-address", nobody, **_addresses(suite))
    assert result == Result(2, "", f"handfast: demo: no answer from preferences at {nobody}\n")
