#!/bin/sh
# Writes a small Debian with Python to a tar file, as a base for the image where none can be pulled. Needs root and
# debootstrap.
#
#     tools/image-base.sh FILE
set -eu
mkdir -p "$(dirname "$1")"
file=$(realpath "$1")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$scratch/root" >&2
rm -rf "$scratch"/root/var/cache/apt/* "$scratch"/root/var/lib/apt/lists/*
# The official images of Python have nothing compiled either.
find "$scratch/root" -name '*.pyc' -delete
tar --create --numeric-owner --directory "$scratch/root" --file "$file.unfinished" .
mv "$file.unfinished" "$file"
