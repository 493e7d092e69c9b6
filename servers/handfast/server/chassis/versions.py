"""The versions of what a server runs on."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

import google.protobuf
import grpc
import sqlalchemy


@functools.cache
def versions() -> dict[str, str]:
    """By name: `version` is that of Handfast, empty where it runs from sources that are not installed."""
    return {
        "version": _own(),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        "sqlalchemy": sqlalchemy.__version__,
    }


def _own() -> str:
    try:
        return metadata.version("handfast")
    except metadata.PackageNotFoundError:
        return ""
