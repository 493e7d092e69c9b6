"""Checks the standard variables OTEL_… before the SDK reads them.

The SDK takes an empty variable for a value, though the specification says that it counts as not given. Of values that
it cannot use, it logs some, with the secrets in them, and goes on without; for others it raises what names no variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

SAMPLER, RATIO = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
QUEUE, BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_MAY_HAVE_SECRETS = ("_ENDPOINT", "_HEADERS", "_ATTRIBUTES")
_OTLP, _OTLP_TRACES = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"


def take_away_empty() -> None:
    for name in [name for name, value in os.environ.items() if name.startswith("OTEL_") and not value.strip()]:
        del os.environ[name]


def check() -> None:
    """Takes away those that are empty. Raises ValueError, which names the variable that breaks its rule."""
    take_away_empty()
    for name, value in os.environ.items():
        rule, holds = _RULES.get(name.replace(_OTLP_TRACES, _OTLP), ("", None))
        if holds is not None and not holds(value):
            shown = "" if name.endswith(_MAY_HAVE_SECRETS) else f", not {value!r}"
            raise ValueError(f"{name} must be {rule}{shown}")
    if (queue := int(os.environ.get(QUEUE, "2048"))) < (batch := int(os.environ.get(BATCH, "512"))):
        raise ValueError(f"{QUEUE} must be at least {BATCH}, which is {batch}, not {queue}")


def _is_number(text: str, least: float, most: float) -> bool:
    try:
        return least <= float(text) <= most
    except ValueError:
        return False


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        return "@" not in text and "?" not in text and parts.port != 0  # which raises where it is no number
    except ValueError:
        return False


def _are_headers(text: str) -> bool:
    """As gRPC and the SDK take them: of others the SDK logs all, and gRPC ends each export."""
    return all(
        re.fullmatch(r"[\w.-]+\s*=[^;\"\\]*", each.strip(), re.ASCII) and re.fullmatch("[ -~]*", unquote(each.strip()))
        for each in text.split(",")
        if each.strip()
    )


def _are_pairs(text: str) -> bool:
    return all("=" in each for each in text.split(",") if each.strip())


def _is_pem(path: str) -> bool:
    try:
        return b"-----BEGIN " in Path(path).read_bytes()
    except (OSError, ValueError):
        return False


_MILLISECONDS = ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT")
_FILES = (_OTLP + "CERTIFICATE", _OTLP + "CLIENT_CERTIFICATE", _OTLP + "CLIENT_KEY")
_COUNT = ("a whole number from 1 to 999999999", lambda text: bool(re.fullmatch("0*[1-9][0-9]{0,8}", text)))
_FILE = ("a file in PEM that can be read", _is_pem)
_URL = f"a URL such as https://collector:4317, without user, password or query: for secrets there is {_OTLP}HEADERS"
_PAIRS = "NAME=VALUE, or several of these with commas between them"
_RULES: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    SAMPLER: ("one of " + ", ".join(SAMPLERS), lambda text: text.lower() in SAMPLERS),
    RATIO: ("a number from 0 to 1", lambda text: _is_number(text, 0, 1)),
    **dict.fromkeys((QUEUE, BATCH, *_MILLISECONDS), _COUNT),
    # Of these there is one each for traces, too.
    _OTLP + "ENDPOINT": (_URL, _is_url),
    _OTLP + "HEADERS": (f"{_PAIRS}, what is special in a value percent-encoded, and no quotes around", _are_headers),
    _OTLP + "TIMEOUT": ("a number of seconds from 0.001 to 1000000", lambda text: _is_number(text, 0.001, 1e6)),
    _OTLP + "PROTOCOL": ("grpc or http/protobuf", ("grpc", "http/protobuf").__contains__),
    "OTEL_RESOURCE_ATTRIBUTES": (_PAIRS, _are_pairs),
    **dict.fromkeys(_FILES, _FILE),
}
