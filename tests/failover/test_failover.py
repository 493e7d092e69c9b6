"""What needs no cluster: what its parts are told, who says that it is whole, and which write counts as the first."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.crashes.history import Event
from tests.failover import configuration
from tests.failover.cluster import postgresql_programs, whole
from tests.failover.faults import FAULTS, in_turns
from tests.failover.run import Report, Round, acknowledged_since
from tests.project.commands import ROOT, run
from tests.serializability.history import Outcome, Read, Write

ISOLATE = ROOT / "tests" / "failover" / "isolate.sh"
PROGRAMS = ("initdb", "pg_basebackup", "pg_controldata", "pg_ctl", "pg_rewind", "postgres")


def test_etcd_of_each_node_knows_all_three() -> None:
    arguments = " ".join(configuration.etcd("node2", Path("/data")))
    assert "--name node2 --data-dir /data --listen-client-urls http://10.77.0.2:2379" in arguments
    assert arguments.endswith("node1=http://10.77.0.1:2380,node2=http://10.77.0.2:2380,node3=http://10.77.0.3:2380")


@pytest.mark.parametrize("synchronous", [True, False])
def test_patroni_waits_for_a_standby_where_it_should(synchronous: bool) -> None:
    settings = configuration.patroni("node3", Path("/data"), Path("/programs"), synchronous=synchronous)
    dynamic = settings["bootstrap"]["dcs"]
    assert (dynamic["synchronous_mode"], dynamic["synchronous_mode_strict"]) == (synchronous, synchronous)
    assert settings["restapi"]["connect_address"] == "10.77.0.3:8008"
    assert settings["postgresql"]["connect_address"] == "10.77.0.3:5432"
    assert settings["postgresql"]["data_dir"] == "/data/postgresql"


def test_haproxy_asks_patroni_of_each_node_whether_it_is_the_primary() -> None:
    told = configuration.haproxy()
    assert "option httpchk OPTIONS /primary" in told
    for name, address in configuration.NODES.items():
        assert f"    server {name} {address}:5432 check port 8008\n" in told


def test_the_package_of_the_tests_has_what_patroni_runs() -> None:
    assert [name for name in PROGRAMS if not (postgresql_programs() / name).exists()] == []


def commands() -> Iterator[bytes]:
    """Of all processes."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # has ended
            yield file.read_bytes()


@pytest.mark.skipif(run(ISOLATE, "ip", "link").returncode != 0, reason="no namespaces here, or no iproute2")
def test_a_node_whose_cable_is_pulled_is_cut_off_and_nothing_outlives_the_command(tmp_path: Path) -> None:
    done = run(ISOLATE, sys.executable, "-m", "tests.failover.pulled", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert not any(str(tmp_path).encode() in command for command in commands())


def answer(*members: tuple[str, str, int]) -> Mapping[str, Any]:
    """As Patroni gives it, of members with role, state and timeline."""
    names = (f"node{number}" for number in range(1, len(members) + 1))
    return {
        "members": [
            {"name": name, "role": role, "state": state, "timeline": timeline}
            for name, (role, state, timeline) in zip(names, members, strict=True)
        ]
    }


LEADER, REPLICA, SYNC = ("leader", "running", 2), ("replica", "streaming", 2), ("sync_standby", "streaming", 2)
NOT_WHOLE = {
    "nothing": {},
    "two": answer(LEADER, SYNC),
    "no leader": answer(REPLICA, REPLICA, SYNC),
    "no synchronous standby": answer(LEADER, REPLICA, REPLICA),
    "one that starts": answer(LEADER, ("replica", "starting", 2), SYNC),
    "one that does not stream yet": answer(LEADER, ("replica", "running", 2), SYNC),
    "one on an earlier timeline": answer(LEADER, ("replica", "streaming", 1), SYNC),
    "a leader that has stopped": answer(("leader", "stopped", 2), REPLICA, SYNC),
}


@pytest.mark.parametrize("told", NOT_WHOLE.values(), ids=NOT_WHOLE.keys())
def test_a_cluster_is_not_whole_before_all_three_are(told: Mapping[str, Any]) -> None:
    assert whole(told, synchronous=True) == ""


def test_a_cluster_is_whole_with_a_leader_and_two_that_follow() -> None:
    assert whole(answer(SYNC, LEADER, REPLICA), synchronous=True) == "node2"
    assert whole(answer(REPLICA, REPLICA, LEADER), synchronous=False) == "node3"


def test_each_fault_has_its_turn_and_a_seed_repeats_them() -> None:
    turns, again = in_turns(random.Random("a")), in_turns(random.Random("a"))
    for _ in range(3):
        some = [next(turns) for _ in FAULTS]
        assert sorted(some) == sorted(FAULTS)
        assert some == [next(again) for _ in FAULTS]


def event(began: float, outcome: Outcome = Outcome.COMMITTED, *, writes: bool = True) -> Event:
    return Event("c0", began, began + 1, outcome, (Write("x", "1") if writes else Read("x", "1"),))


def test_the_first_write_is_one_that_began_after_the_fault_and_was_acknowledged() -> None:
    later = event(8)
    history = [event(4), event(6, Outcome.UNKNOWN), event(7, Outcome.ABORTED), event(7, writes=False), later]
    assert acknowledged_since(5, history) is later
    assert acknowledged_since(9, history) is None


def test_a_report_is_good_only_where_writes_came_back_in_time() -> None:
    def report(back: float) -> Report:
        return Report([Round(1, "cut off", "node1", back, 50, "node2")], [event(1)], [], [])

    assert report(29).good
    assert not report(31).good
