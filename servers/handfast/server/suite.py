"""What the suite's own servers are told beyond what any server is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from handfast.server.process.settings import DatabaseSettings


def _address(server: str, port: int) -> Any:
    """A setting that says where a server is; by default on this machine."""
    metadata = {"help": f"where the {server} server is", "metavar": "ADDRESS"}
    return field(default=f"127.0.0.1:{port}", metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SuiteSettings(DatabaseSettings):
    """Settings of a server of the suite: it has a database, and is told where the others are."""

    users_address: str = _address("users", 50051)
    preferences_address: str = _address("preferences", 50052)
    accounts_address: str = _address("accounts", 50053)

    def __post_init__(self) -> None:
        super().__post_init__()
        for peer in ("users_address", "preferences_address", "accounts_address"):
            self.check_peer(peer)
