"""Settings of the suite's own servers, beside those of any server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from handfast.server.process.settings import DatabaseSettings, setting

FIRST_PORT = 50051
DATABASES = {"users": "users", "preferences": "preferences", "accounts": "transactions"}
"""The names of the servers' databases, for what they hold: accounts owns decisions about transactions, no accounts."""


def _address(server: str, port: int) -> Any:
    """A setting that says where a server is; by default on this machine."""
    return setting(f"127.0.0.1:{port}", f"where the {server} server is", metavar="ADDRESS")


@dataclass(frozen=True, kw_only=True)
class SuiteSettings(DatabaseSettings):
    """Settings of a server of the suite: it has a database, and knows where the others are."""

    users_address: str = _address("users", FIRST_PORT)
    preferences_address: str = _address("preferences", FIRST_PORT + 1)
    accounts_address: str = _address("accounts", FIRST_PORT + 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        for peer in ("users_address", "preferences_address", "accounts_address"):
            self.check_peer(peer)

    @classmethod
    def variable(cls, server: str, setting: str) -> str:
        return super().variable(DATABASES.get(server, server) if setting == "database_url" else server, setting)
