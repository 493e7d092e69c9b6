"""The failure of a command that is explained in one line."""

from __future__ import annotations


class CommandError(Exception):
    """A failure that the user can act on: printed as one line on stderr, with exit status 2 and no traceback."""
