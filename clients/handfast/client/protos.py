"""Where the contracts are that are installed beside their stubs, for a contract of your own that imports one of them.
`python -m handfast.client.protos` prints the folder, which is what `-I` of protoc takes.
"""

from __future__ import annotations

from pathlib import Path

import handfast

_ANY = Path("chassis", "v1", "options.proto")


def folder() -> Path:
    """The folder from which contracts are imported as `handfast/chassis/v1/options.proto`: the `-I` of protoc. Raises
    FileNotFoundError where the contracts are not installed, as by a build that left them out.
    """
    # Several, where an editable install leaves sources where they are.
    for portion in map(Path, handfast.__path__):
        if (portion / _ANY).is_file():
            return portion.parent
    raise FileNotFoundError(f"the contracts are not installed: no {_ANY} in {[*handfast.__path__]}")


if __name__ == "__main__":
    print(folder())
