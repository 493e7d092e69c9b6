"""Where the contracts are that are installed beside their stubs, for a contract of your own that imports one of them.
`python -m handfast.client.protos` prints the folder, which is what `-I` of protoc takes.
"""

from __future__ import annotations

from pathlib import Path

import handfast

_ANY = Path("chassis", "v1", "options.proto")


def folder() -> Path:
    """The folder from which contracts are imported as `handfast/chassis/v1/options.proto`: the `-I` of protoc."""
    portions = map(Path, handfast.__path__)  # several, where an editable install leaves sources where they are
    return next(portion.parent for portion in portions if (portion / _ANY).is_file())


if __name__ == "__main__":
    print(folder())
