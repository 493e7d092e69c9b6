#!/bin/sh
# Builds the sdist and the wheel into dist/, and tries both as those do who install them. Nothing is published.
#
#     tools/dist.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# install NAME CONSTRAINTS WHAT…: a new environment with that in it.
install() {
    name=$1 constraints=$2
    shift 2
    "$python" -m venv "$scratch/$name"
    "$scratch/$name/bin/python" -m pip install --constraint constraints.txt --upgrade pip
    "$scratch/$name/bin/python" -m pip install --constraint "$constraints" "$@"
    "$scratch/$name/bin/python" -m pip check >/dev/null
}

echo "building"
install release constraints.txt --group release
rm -rf dist
PIP_CONSTRAINT=constraints.txt "$scratch/release/bin/python" -m build --outdir dist . >"$scratch/build" 2>&1 || {
    cat "$scratch/build"
    exit 1
}
"$scratch/release/bin/python" -m twine check --strict dist/*
wheel=$(echo dist/*.whl)

if git rev-parse --git-dir >/dev/null 2>&1; then
    echo "the sdist has what git knows, and nothing else"
    tar --list --file dist/*.tar.gz | sed 's,^[^/]*/,,' | grep -vx PKG-INFO | sort >"$scratch/packed"
    git ls-files | grep -v '^examples/[a-z]*/deps/' | sort >"$scratch/known"
    diff "$scratch/known" "$scratch/packed" >"$scratch/differ" || {
        sed -n 's/^> /it has, and git does not know: /p; s/^< /it lacks: /p' "$scratch/differ"
        exit 1
    }
fi

echo "the wheel, which is built out of the sdist, is that of the sources"
"$scratch/release/bin/python" -m pip wheel --no-deps --build-constraint constraints.txt --wheel-dir "$scratch/wheels" .
"$python" - "$wheel" "$scratch"/wheels/*.whl <<'PYTHON'
import sys
from zipfile import ZipFile

one, other = ({each.filename: each.CRC for each in ZipFile(wheel).infolist()} for wheel in sys.argv[1:])
if one != other:
    sys.exit(f"they differ: {sorted(set(one.items()) ^ set(other.items()))[:5]}")
PYTHON

for constraints in constraints.txt constraints-floor.txt; do
    echo "the client alone, with $constraints"
    install "client-$constraints" "$constraints" "$wheel"
    contracts=$("$scratch/client-$constraints/bin/python" -m handfast.client.protos)
    test -f "$contracts/handfast/users/v1/users.proto"
    "$scratch/client-$constraints/bin/python" - <<'PYTHON'
from importlib.util import find_spec

from handfast.client import connect
from handfast.client.aio import connect as connect_async
from handfast.users.v1.users_pb2 import User

connect().close()
assert connect_async and User(user_id="ada").user_id == "ada"
assert find_spec("sqlalchemy") is None
PYTHON
done

# The lowest versions that pyproject.toml allows.
"$scratch/release/bin/uv" pip compile --quiet --resolution lowest-direct --extra server --extra otel \
    --python "$python" --output-file "$scratch/lowest" pyproject.toml >/dev/null
for constraints in constraints.txt "$scratch/lowest"; do
    name=server-$(basename "$constraints")
    echo "the servers, with $(basename "$constraints")"
    install "$name" "$constraints" "$wheel[server,otel]"
    "$scratch/$name/bin/handfast" --version
    (cd "$scratch" && "$scratch/$name/bin/handfast" demo >"$scratch/demo") || {
        cat "$scratch/demo"
        exit 1
    }
    tail -n 1 "$scratch/demo"
done
ls -l dist
