#!/bin/sh
# Writes a program, out of a Debian package, to a file, and the libraries that this machine lacks beside it. Nothing is
# installed and no service starts; apt's own lists and cache stay as they are, so it needs no root.
#
#     tools/fetch-debian.sh PACKAGE PROGRAM FILE
set -eu
package=$1 program=$2
mkdir -p "$(dirname "$3")"
file=$(realpath "$3")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir -p lists/partial cache/archives/partial
apt() {
    apt-get --quiet --quiet --option APT::Sandbox::User=root --option Dir::State::Lists="$scratch/lists" \
        --option Dir::Cache="$scratch/cache" "$@"
}
apt update
apt download "$package"
dpkg-deb --extract "$package"_*.deb unpacked
lacking() { ldd "$1" | awk '/not found/ { print $1 }'; }
if [ -z "$(lacking "unpacked$program" || true)" ]; then
    mv "unpacked$program" "$file"
    exit
fi

# A library may itself need another, of a package that its own package names.
rm -rf "$file.d"
mkdir "$file.d"
mv "unpacked$program" "$file.d/program"
export LD_LIBRARY_PATH="$file.d"
while missing=$(lacking "$file.d/program") && [ -n "$missing" ]; do
    # shellcheck disable=SC2046  # one name a word
    apt download $(for each in *.deb; do dpkg-deb --field "$each" Depends; done |
        tr , '\n' | sed 's/^ *//; s/[ :(|].*//' | grep '^lib' | sort --unique)
    for library in lib*.deb; do
        dpkg-deb --extract "$library" unpacked
    done
    for library in $missing; do
        cp --dereference "$(find unpacked -name "$library")" "$file.d/"
    done
done
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "'$file.d'" "'$file.d/program'" >"$file"
chmod +x "$file"
