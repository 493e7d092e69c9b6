"""Checks what callers give with a channel or a call, where gRPC would take it and fail later, or without a reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import grpc

MAX_TIMEOUT = 1_000_000_000  # seconds; gRPC takes what is much longer for over
MIN_KEEPALIVE, MAX_KEEPALIVE = 0.5, 86_400  # seconds; servers on the chassis allow no less

# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
_KEY = re.compile(r"[0-9a-z_.-]+")


def check_timeout(timeout: float) -> float:
    """Seconds for calls that give none. Raises TypeError or ValueError."""
    seconds = check_call_timeout(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout: must be more than 0 seconds, not {timeout}")
    return seconds


def check_keepalive(seconds: float) -> float:
    """Raises TypeError or ValueError."""
    _check_number("keepalive_seconds", seconds)
    if not MIN_KEEPALIVE <= seconds <= MAX_KEEPALIVE:
        raise ValueError(
            f"keepalive_seconds: must be a number of seconds from {MIN_KEEPALIVE} to {MAX_KEEPALIVE:,}, not {seconds}"
        )
    return float(seconds)


def check_call_timeout(timeout: float) -> float:
    """Seconds for one call, of which none may be left. Raises TypeError or ValueError."""
    _check_number("timeout", timeout)
    if not timeout <= MAX_TIMEOUT:  # no comparison with NaN is true
        raise ValueError(f"timeout: must be a number of seconds, up to {MAX_TIMEOUT:,}, not {timeout}")
    return float(timeout)


def _check_number(argument: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        raise TypeError(f"{argument}: must be a number of seconds, not {_type_of(seconds)}")


def check_credentials(credentials: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials | None:
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise TypeError(
            "credentials: must be grpc.ChannelCredentials, such as grpc.ssl_channel_credentials() gives, "
            f"not {_type_of(credentials)}"
        )
    return credentials


def check_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, str | bytes], ...]:
    if metadata is None:
        return ()
    if isinstance(metadata, Mapping | str | bytes) or not isinstance(metadata, Iterable):
        raise TypeError(f"metadata: {_PAIRS}, not {_type_of(metadata)}")
    return tuple(_entry(each) for each in metadata)


_PAIRS = 'must be pairs of a key and a value, such as [("x-request-id", "1")]'


def _entry(entry: Any) -> tuple[str, str | bytes]:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise TypeError(f"metadata: {_PAIRS}; one entry is no pair")
    key, value = entry
    if not isinstance(key, str):
        raise TypeError(f"metadata: a key must be a str, not {_type_of(key)}")
    if not _KEY.fullmatch(key):
        raise ValueError(f"metadata: the key {key!r} must be of lower-case letters, digits, '-', '_' and '.'")
    # Values are not told: they may be secret.
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"metadata: the value of {key!r} must be bytes, not {_type_of(value)}")
    elif not isinstance(value, str | bytes):
        raise TypeError(f"metadata: the value of {key!r} must be a str, not {_type_of(value)}")
    elif not _is_printable_ascii(value if isinstance(value, str) else value.decode("latin-1")):
        raise ValueError(
            f"metadata: the value of {key!r} must be of printable ASCII; anything else is bytes, under a key in -bin"
        )
    return key, value


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _type_of(value: object) -> str:
    return type(value).__name__
