"""Which addresses gRPC reaches by the proxy that the environment names.

As gRPC has it: https://github.com/grpc/grpc/blob/master/doc/environment_variables.md.
"""

from __future__ import annotations

import os

from handfast.client.addresses import hosts_of, is_on_this_machine


def may_go_by_proxy(address: str) -> bool:
    """Not what is on this machine, nor a list, which no proxy takes. Whether `no_proxy` has the network of an IP
    address is for gRPC to see."""
    hosts = hosts_of(address)
    if not _first("grpc_proxy", "https_proxy", "http_proxy") or is_on_this_machine(address) or len(hosts) > 1:
        return False
    name = hosts[0].name.lower() if hosts else ""
    ends = [each.strip().lower() for each in _first("no_grpc_proxy", "no_proxy").split(",") if each]
    return not (name and name.endswith(tuple(ends)))


def _first(*variables: str) -> str:
    """The value of the first that is set, though it be empty."""
    return next((os.environ[each] for each in variables if each in os.environ), "")
