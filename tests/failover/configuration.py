"""What etcd, Patroni and haproxy are told, for three nodes that have an address each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NODES: Mapping[str, str] = {f"node{number}": f"10.77.0.{number}" for number in (1, 2, 3)}
HERE, NETWORK = "10.77.0.254", "10.77.0.0/24"
"""Where haproxy and its clients are, and what all of these are in."""
ETCD, ETCD_PEERS, POSTGRESQL, PATRONI, HAPROXY = 2379, 2380, 5432, 8008, 5000
"""The ports on which each listens."""


def etcd(name: str, folder: Path) -> Sequence[str]:
    """The arguments of a node's etcd."""
    clients, peers = f"http://{NODES[name]}:{ETCD}", f"http://{NODES[name]}:{ETCD_PEERS}"
    members = ",".join(f"{node}=http://{address}:{ETCD_PEERS}" for node, address in NODES.items())
    return (
        *("--name", name, "--data-dir", str(folder)),
        *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", members),
    )


def patroni(name: str, folder: Path, programs: Path, *, synchronous: bool) -> dict[str, Any]:
    """The file of a node's Patroni, which starts the PostgreSQL whose programs these are. Whoever is in the network is
    let in: there is nobody else.
    """
    address = NODES[name]
    return {
        "scope": "handfast",
        "name": name,
        "restapi": {"listen": f"{address}:{PATRONI}", "connect_address": f"{address}:{PATRONI}"},
        "etcd3": {"hosts": [f"{each}:{ETCD}" for each in NODES.values()]},
        "bootstrap": {
            "dcs": {
                "ttl": 20,  # seconds, and as short as Patroni lets it be
                "loop_wait": 3,
                "retry_timeout": 4,
                "primary_start_timeout": 0,  # a standby takes over at once, instead of waiting for a restart
                "synchronous_mode": synchronous,
                "synchronous_mode_strict": synchronous,  # without a standby nothing is acknowledged
                "postgresql": {
                    "use_pg_rewind": True,
                    "parameters": {"wal_log_hints": True, "max_connections": 200},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}, "data-checksums"],
        },
        "postgresql": {
            "listen": f"{address}:{POSTGRESQL}",
            "connect_address": f"{address}:{POSTGRESQL}",
            "bin_dir": str(programs),
            "data_dir": str(folder / "postgresql"),
            "use_unix_socket": True,
            "parameters": {"unix_socket_directories": str(folder)},
            "pg_hba": [
                "local all all trust",
                f"host all all {NETWORK} trust",
                f"host replication all {NETWORK} trust",
            ],
            "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
        },
    }


def haproxy() -> str:
    """Leads to the primary, of which Patroni says who that is."""
    servers = "\n".join(
        f"    server {name} {address}:{POSTGRESQL} check port {PATRONI}" for name, address in NODES.items()
    )
    return f"""\
defaults
    mode tcp
    timeout connect 2s
    timeout check 2s
    timeout client 1h
    timeout server 1h

listen primary
    bind {HERE}:{HAPROXY}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""
