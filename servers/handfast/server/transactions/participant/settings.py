"""The settings of a server that takes part in transactions."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.server.process.settings import ParticipantLimits, setting


@dataclass(frozen=True, kw_only=True)
class ParticipantSettings(ParticipantLimits):
    """It has a database, and knows where transactions are decided."""

    accounts_address: str = setting(
        "127.0.0.1:50053", "where the accounts server is, which decides transactions", metavar="ADDRESS"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_peer("accounts_address")
