"""What the suite's own servers are told beyond what any server is."""

from __future__ import annotations

from dataclasses import dataclass, field

from handfast.server.process.settings import DatabaseSettings


@dataclass(frozen=True, kw_only=True)
class SuiteSettings(DatabaseSettings):
    """Settings of a server of the suite: it has a database, and is told where the others are."""

    users_address: str = field(default="127.0.0.1:50051", metadata={"help": "where the users server is"})
    preferences_address: str = field(default="127.0.0.1:50052", metadata={"help": "where the preferences server is"})
    accounts_address: str = field(default="127.0.0.1:50053", metadata={"help": "where the accounts server is"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for peer in ("users_address", "preferences_address", "accounts_address"):
            self.check_peer(peer)
