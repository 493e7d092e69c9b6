#!/bin/sh
# Writes constraints.txt anew: the newest version of every dependency, direct or not, as pip resolves them today.
#
#     tools/pin.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${1:-python3}" -m venv "$scratch"
pip="$scratch/bin/python -m pip"

$pip install --quiet --upgrade pip
$pip install --quiet hatchling editables --editable '.[server,otel,types]' --group dev --group bench --group docs --group release
# Asks for Python 3.12; benchmarks/peers/kit.py does with 3.11.
$pip install --quiet --no-deps --ignore-requires-python grpc-server-kit
{
    echo "# Versions known to work together; \`make pins\` writes this file, \`make install\` and the tests use it."
    $pip freeze --all --exclude-editable | grep -v '^setuptools=='
} >"$scratch/constraints.txt"
cp "$scratch/constraints.txt" constraints.txt
