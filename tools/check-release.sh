#!/bin/sh
# Fails unless a tag is that of the version in pyproject.toml, and all is there that belongs to its release.
#
#     tools/check-release.sh v0.1.0
set -eu
cd "$(dirname "$0")/.."
tag=${1:?which tag?}
fail() {
    echo "release: $1" >&2
    exit 1
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
[ "$tag" = "v$version" ] || fail "the tag is $tag, and pyproject.toml has the version $version"
grep -qx '\[project\.urls\]' pyproject.toml ||
    fail "pyproject.toml has no [project.urls], by which those who find the package find its sources and docs"
! grep -q '^Nothing is published yet' README.md || fail "README.md says that nothing is published yet"
# Dots stand for themselves.
grep -q "^## \[$(echo "$version" | sed 's/\./\\./g')\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]$" CHANGELOG.md ||
    fail "CHANGELOG.md has no section '## [$version] - YYYY-MM-DD'"
[ -z "$(sed -n '/^## \[Unreleased\]/,/^## \[[0-9]/ { /^## /d; /./p; }' CHANGELOG.md)" ] ||
    fail "CHANGELOG.md has something under [Unreleased], which is not of $version then"
.venv/bin/buf build --exclude-source-info --output - | cmp -s - protos/released.binpb ||
    fail "protos/released.binpb is not what the contracts are; \`make freeze\` writes it"
