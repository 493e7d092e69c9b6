"""Names the methods whose contracts do not say who may call them, or say what cannot or must not be.

    buf build -o - | python -m handfast.server.chassis.security.check

The image of the contracts, a FileDescriptorSet, comes on stdin. Exits with 1 where there is such a method.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from handfast.server.chassis.security.permission import SELF, Permission

SUITE = "handfast"
"""What the packages of its contracts begin with."""
_OF_THE_SUITE = ("branches.", "callers.", "transactions.")
"""How the scopes begin that servers know each other by, and those of transactions."""


def problems(image: FileDescriptorSet) -> Iterator[str]:
    """One line for each method that has a problem."""
    pool = DescriptorPool()
    for file in image.file:
        pool.Add(file)
    for file in image.file:
        for service in pool.FindFileByName(file.name).services_by_name.values():
            for method in service.methods:
                try:
                    permission = Permission.of(method, "server")
                except ValueError as error:
                    yield f"{file.name}: {error}"
                    continue
                if permission is None:
                    yield f"{file.name}: {method.full_name} declares no permission"
                elif file.package.split(".")[0] != SUITE:
                    for problem in _not_its_own(permission):
                        yield f"{file.name}: {method.full_name}: its permission {problem}"


def _not_its_own(permission: Permission) -> Iterator[str]:
    """What a service beside the suite must not ask for: who may give out its scopes would give out those of others."""
    for scope in sorted(permission.scopes.union(*(scopes for _, scopes in permission.fields))):
        if scope.startswith(_OF_THE_SUITE):
            yield f"has the scope {scope!r}, which is the suite's"
        elif "." not in scope and scope != SELF:
            yield f"has the scope {scope!r}, which is of no service; such as 'orders.read' is right"


def main() -> int:
    found = list(problems(FileDescriptorSet.FromString(sys.stdin.buffer.read())))
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
