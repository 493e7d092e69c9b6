"""Names the methods whose contracts do not say who may call them, or say what cannot be.

    buf build -o - | python -m handfast.server.chassis.security.check

The image of the contracts, a FileDescriptorSet, comes on stdin. Exits with 1 where there is such a method.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from handfast.server.chassis.security.permission import Permission


def problems(image: FileDescriptorSet) -> Iterator[str]:
    """One line for each method that has a problem."""
    pool = DescriptorPool()
    for file in image.file:
        pool.Add(file)
    for file in image.file:
        for service in pool.FindFileByName(file.name).services_by_name.values():
            for method in service.methods:
                try:
                    if Permission.of(method, "server") is None:
                        yield f"{file.name}: {method.full_name} declares no permission"
                except ValueError as error:
                    yield f"{file.name}: {error}"


def main() -> int:
    found = list(problems(FileDescriptorSet.FromString(sys.stdin.buffer.read())))
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
