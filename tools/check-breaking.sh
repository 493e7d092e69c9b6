#!/bin/sh
# Fails where the contracts break a caller of the last release.
#
#     tools/check-breaking.sh [DIRECTORY [IMAGE]]
#
# DIRECTORY holds buf.yaml (default: this project); IMAGE is what `make freeze` wrote at the last release. Until the
# first release there is none, and v1 may still change.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
directory=${1:-$root}
image=${2:-$directory/protos/released.binpb}

if [ ! -e "$image" ]; then
    if ! grep -q '^version = "0\.1\.0\.dev' "$root/pyproject.toml"; then
        echo "breaking changes: $image is missing, though this is a release; \`make freeze\` writes it" >&2
        exit 1
    fi
    echo "breaking changes: nothing to compare with, no contract is released yet"
    exit 0
fi
exec "$root/.venv/bin/buf" breaking "$directory" --against "$image"
