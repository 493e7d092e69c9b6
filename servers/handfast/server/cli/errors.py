"""The failure that is told in one line."""

from __future__ import annotations


class CommandError(Exception):
    """A failure that its reader can act on: printed as one line on stderr, exit status 2, no traceback."""
