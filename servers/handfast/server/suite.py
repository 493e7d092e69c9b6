"""Settings of the suite's own servers, beside those of any server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handfast.server.process.addresses import check_peer_address
from handfast.server.process.settings import ParticipantLimits, setting

FIRST_PORT = 50051
DATABASES = {"users": "users", "preferences": "preferences", "accounts": "transactions"}
"""The names of the servers' databases, for what they hold: accounts owns decisions about transactions, no accounts."""

PARTICIPANTS = ("users", "preferences")
"""The suite's own servers that take part in transactions."""
_IN_SCOPES = {"branches", "callers", "self"}
"""What scopes of the suite are about or called beside that: those of a service begin with its name."""
NAMES_IN_USE = {*DATABASES, *DATABASES.values(), "coordinator", "up", *_IN_SCOPES}
"""What no other service is called. In a file of settings, `[up]` is the table of `handfast up`."""
NAME = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST_NAME = 32
"""Characters. The name of a table may be one of the library and this one together, and PostgreSQL cuts it at 63."""
_SEPARATOR = re.compile(r"[=;\s]")
"""What no address has, and a list that is not written with commas."""
_REPLICAS = ","
"""Stands between the addresses of the replicas of one server."""


def _address(server: str, port: int) -> Any:
    """A setting that says where a server is; by default on this machine."""
    return setting(
        f"127.0.0.1:{port}", f"where the {server} server is, or its replicas, with commas", metavar="ADDRESS"
    )


@dataclass(frozen=True, kw_only=True)
class SuiteSettings(ParticipantLimits):
    """Settings of a server of the suite: it has a database, and knows where the others are."""

    users_address: str = _address("users", FIRST_PORT)
    preferences_address: str = _address("preferences", FIRST_PORT + 1)
    accounts_address: str = _address("accounts", FIRST_PORT + 2)
    participant: tuple[str, ...] = setting(
        (),
        "another service that takes part in transactions, and where it is; may be repeated",
        default="none",
        metavar="NAME=ADDRESS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for peer in ("users_address", "preferences_address", "accounts_address"):
            self.check_peer(peer)
        self.check("participant", self._check_participants)

    def _check_participants(self, values: Iterable[str]) -> None:
        at = {
            replica: server for server in DATABASES for replica in getattr(self, f"{server}_address").split(_REPLICAS)
        }
        for name, address in parse_participants(values).items():
            for replica in address.split(_REPLICAS):
                if at.setdefault(replica, name) != name:
                    raise ValueError(f"must not give {name} the address of {at[replica]}, {replica}")

    @property
    def participants(self) -> Mapping[str, str]:
        """All that take part in transactions: the address of each, by its name."""
        return {name: getattr(self, f"{name}_address") for name in PARTICIPANTS} | parse_participants(self.participant)

    @classmethod
    def key(cls, setting: str) -> str:
        return "participants" if setting == "participant" else super().key(setting)

    @classmethod
    def variable(cls, server: str, setting: str) -> str:
        return super().variable(DATABASES.get(server, server) if setting == "database_url" else server, setting)


def _joined(values: Iterable[str]) -> list[str]:
    """Commas are between participants, and between the replicas of one."""
    joined: list[str] = []
    for value in values:
        if joined and value and "=" not in value:
            joined[-1] += f"{_REPLICAS}{value}"
        else:
            joined.append(value)
    return joined


def parse_participants(values: Iterable[str]) -> dict[str, str]:
    """The addresses of participants beside the suite's own, by the name that their staged calls confirm. Each value is
    `NAME=ADDRESS`, or one more replica of the participant before it. Raises ValueError, worded to follow the setting's
    name.
    """
    addresses: dict[str, str] = {}
    for value in _joined(values):
        name, separator, address = value.partition("=")
        if not separator or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            rule = f"the name in lower-case letters, digits and single underscores, up to {LONGEST_NAME}"
            raise ValueError(f"must be NAME=ADDRESS, {rule}, not {value!r}")
        if name in DATABASES:
            raise ValueError(f"must name no server of the suite, not {name}: its address is a setting of its own")
        if name in NAMES_IN_USE:
            raise ValueError(f"must give no name that the suite has another use for, not {name}")
        if _SEPARATOR.search(address):
            raise ValueError(f"must be NAME=ADDRESS with commas between several, not {value!r}")
        if name in addresses:
            raise ValueError(f"must name each participant once, not {name} twice")
        try:
            check_peer_address(address)
        except ValueError as error:
            raise ValueError(f"has an address for {name} that {error}") from None
        addresses[name] = address
    return addresses
