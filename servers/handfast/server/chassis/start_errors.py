"""Why a server does not start."""

from __future__ import annotations

from handfast.server.process.command import Failure


class StartError(Failure):
    """The server cannot start. The message is one line for the operator."""


class DeclarationError(StartError, ValueError):
    """What a service declares of itself breaks a rule, so its server cannot start."""
