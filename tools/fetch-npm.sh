#!/bin/sh
# Writes a file, out of an npm package, to another. Nothing of the package is run.
#
#     tools/fetch-npm.sh PACKAGE@VERSION PATH FILE
set -eu
package=$1 path=$2
mkdir -p "$(dirname "$3")"
file=$(realpath "$3")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
tar --extract --gzip --file "$(npm pack --silent "$package")" "package/$path"
mv "package/$path" "$file"
