"""Where the services are: from an argument, else from the environment, else on this machine."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_ADDRESSES = {
    "users": "127.0.0.1:50051",
    "preferences": "127.0.0.1:50052",
    "accounts": "127.0.0.1:50053",
}

# https://grpc.github.io/grpc/core/md_doc_naming.html: only these name something other than hosts and ports.
_WITHOUT_PORT = ("unix:", "unix-abstract:", "vsock:", "xds:")
_SOCKETS = ("unix:", "unix-abstract:")
_PREFIX = re.compile(r"(dns:(//[^/]*/)?|ipv4:|ipv6:)")
_WITH_A_LIST = ("", "ipv4:", "ipv6:")
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def resolve_address(service: str, argument: str | None) -> str:
    """The address of `users`, `preferences`, `accounts` or a team's own service.

    Raises ValueError or TypeError, naming the argument or the variable, where it cannot be an address, and where there
    is none.
    """
    if argument is not None:
        return check_address(argument, setting=service)
    variable = f"HANDFAST_{re.sub('[^A-Z0-9]', '_', service.upper())}_ADDRESS"
    if (address := os.environ.get(variable)) is not None:
        return check_address(address, setting=variable)
    if service not in DEFAULT_ADDRESSES:
        raise ValueError(
            f"{service}: where is it? Say so by connect(participants={{{service!r}: 'localhost:50061'}}) or {variable}"
        )
    return DEFAULT_ADDRESSES[service]


def check_participants(participants: Mapping[str, str] | None) -> dict[str, str]:
    """The addresses of a team's own services, by name. Raises TypeError or ValueError, naming the one at fault."""
    if not isinstance(participants, Mapping | None):
        raise TypeError(f"participants: must be names and addresses, not {type(participants).__name__}")
    for name, address in (participants or {}).items():
        if name in DEFAULT_ADDRESSES:
            raise ValueError(f"participants: give the address of {name} by the argument {name}")
        check_address(address, setting=f"participants[{name!r}]")
    return dict(participants or {})


def check_address(address: str, *, setting: str) -> str:
    """Returns `address` if it is one of gRPC, or a list of hosts and ports. gRPC itself would say so only when a call
    fails."""
    if not isinstance(address, str):
        given = type(address).__name__
        raise TypeError(f"{setting}: must be a str such as localhost:50051, or several with commas, not {given}")
    prefix = _PREFIX.match(address)
    scheme = prefix[1] if prefix else ""
    hosts = (address[prefix.end() :] if prefix else address).split(",")
    if address.startswith(_WITHOUT_PORT):
        is_valid = not any(each.startswith(_WITHOUT_PORT) or _is_host(each, "") for each in hosts[1:])
    else:
        is_valid = all(_is_host(each, scheme) for each in hosts) and (len(hosts) == 1 or scheme in _WITH_A_LIST)
    if not is_valid:
        raise ValueError(
            f"{setting}: {address!r} is no address; give a host and a port, such as localhost:50051, "
            "or several with commas, without spaces or prefixes"
        )
    return address


def _is_host(text: str, scheme: str) -> bool:
    """Whether it is a host and a port, such as gRPC takes after `scheme`."""
    if not (match := _HOST_AND_PORT.fullmatch(text)) or not 0 < int(match[2]) < 65536:
        return False
    name = match[1].strip("[]")
    if name != match[1]:
        return scheme != "ipv4:" and ":" in name and is_ip(name)
    return scheme != "ipv6:" and (scheme != "ipv4:" or is_ip(name))


class Host(NamedTuple):
    """A name or an IP address, without brackets, and a port."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def hosts_of(address: str) -> list[Host]:
    """The hosts that an address names; none where it is for gRPC alone to say what it stands for: a socket, or a name
    with a DNS server to ask."""
    prefix = _PREFIX.match(address)
    if address.startswith(_WITHOUT_PORT) or (prefix and prefix[2] not in (None, "///")):
        return []
    split = (each.rpartition(":") for each in address[prefix.end() if prefix else 0 :].split(","))
    return [Host(name.strip("[]"), int(port)) for name, _, port in split]


def is_one_server(address: str) -> bool:
    """Whether it can be no more than one: a socket, or one IP address."""
    hosts = hosts_of(address)
    return is_socket(address) or (len(hosts) == 1 and is_ip(hosts[0].name))


def is_on_this_machine(address: str) -> bool:
    """Whether all that an address names is this machine. Names but those of RFC 6761, `localhost` and what ends in
    `.localhost`, are not looked up."""
    if is_socket(address):
        return True
    hosts = _PREFIX.sub("", address, count=1).split(",")
    return all(_is_loopback(host.rpartition(":")[0].strip("[]")) for host in hosts)


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_socket(address: str) -> bool:
    """Whether it names a Unix domain socket."""
    return address.startswith(_SOCKETS)


def _is_loopback(host: str) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")
    mapped = ip.ipv4_mapped if ip.version == 6 else None
    return (mapped or ip).is_loopback or ip.is_unspecified  # what listens everywhere is called by that name, too
