"""Addresses and URLs in the settings of a server: where it listens, where its peers are, where its keys come from."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

MAX_PORT = 65535

_HOST_AND_PORT = "must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051"
_PLAIN_ADDRESS = re.compile("[A-Za-z0-9.-]+:[0-9]+")


def split_address(address: str) -> tuple[str, int]:
    """`[::1]:50051` as `("::1", 50051)`. Raises ValueError, worded to follow the setting's name."""
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid_port = port.isascii() and port.isdigit() and int(port) <= MAX_PORT
    if not host or not valid_port or (":" in host and _ip(host) and not bracketed):
        raise ValueError(f"{_HOST_AND_PORT}, not {address!r}")
    return (host[1:-1] if bracketed else host), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`. A name other than `localhost` is not
    looked up, since what it resolves to may change."""
    ip = _ip(host)
    return ip.is_loopback if ip else host.lower() == "localhost"


def check_peer_address(address: str) -> None:
    """Raises ValueError, worded to follow the setting's name, unless this is `HOST:PORT`, a list of those, or another
    name that gRPC resolves."""
    if _PLAIN_ADDRESS.fullmatch(address):
        if not split_address(address)[1]:
            raise ValueError(f"must name a port, not {address!r}")
        return
    from handfast.client.addresses import check_address  # takes grpc with it, which `up` and help do without

    try:
        check_address(address, setting="address")
    except ValueError:
        raise ValueError(f"{_HOST_AND_PORT}, or several of these with commas and no spaces, not {address!r}") from None


def is_url(place: str) -> bool:
    """Whether a setting that takes a file or a URL has a URL."""
    return "://" in place


def check_file_or_url(place: str) -> None:
    """Raises ValueError, worded to follow the setting's name, for a URL from which somebody in between could answer."""
    if not is_url(place):
        return
    if not place.isprintable() or " " in place:  # which urlsplit takes out, and what asks for the keys does not
        raise ValueError("must be a URL without spaces and line breaks")
    try:
        url = urlsplit(place)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError("must be a file or a URL") from None
    if not host or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(host))):
        raise ValueError("must be a file or a URL that begins with https://; http:// is for loopback")
    if url.username is not None:
        raise ValueError("must be a URL without a user name and a password")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
