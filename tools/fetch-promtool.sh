#!/bin/sh
# Writes promtool, out of Debian's package `prometheus`, to a file. Nothing is installed and no service starts; apt's
# own lists and cache stay as they are, so it needs no root.
#
#     tools/fetch-promtool.sh FILE
set -eu
mkdir -p "$(dirname "$1")"
file=$(realpath "$1")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir -p lists/partial cache/archives/partial
apt() {
    apt-get --quiet --quiet --option APT::Sandbox::User=root --option Dir::State::Lists="$scratch/lists" \
        --option Dir::Cache="$scratch/cache" "$@"
}
apt update
apt download prometheus
dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract ./usr/bin/promtool
mv usr/bin/promtool "$file"
