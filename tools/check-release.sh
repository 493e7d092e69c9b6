#!/bin/sh
# Fails unless a tag is that of the version in pyproject.toml, and CHANGELOG.md says what is in it and of which day it is.
#
#     tools/check-release.sh v0.1.0
set -eu
cd "$(dirname "$0")/.."
tag=${1:?which tag?}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
if [ "$tag" != "v$version" ]; then
    echo "release: the tag is $tag, and pyproject.toml has the version $version" >&2
    exit 1
fi
# Dots stand for themselves.
if ! grep -q "^## \[$(echo "$version" | sed 's/\./\\./g')\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]$" CHANGELOG.md; then
    echo "release: CHANGELOG.md has no section '## [$version] - YYYY-MM-DD'" >&2
    exit 1
fi
