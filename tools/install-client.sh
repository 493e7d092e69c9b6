#!/usr/bin/env bash
# Installs what docs/clients.md has the user of a language install, by the commands that it shows, into a folder.
#
#     tools/install-client.sh Go .tools/clients/go
#
# The folder is made anew. The commands end up in `installed`, by which one sees whether the page has others since.
set -euo pipefail

language=$1 folder=$2
page="$(dirname "$0")/../docs/clients.md"
# The first block of commands below the language's heading.
commands=$(awk -v heading="## $language" '
    $0 == heading   { below = 1 }
    inside && /^```/ { exit }
    inside          { print }
    below && /^```sh$/ { inside = 1 }
' "$page")

rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
export GOBIN="$PWD/bin" npm_config_package_lock=false npm_config_update_notifier=false
bash -euo pipefail -c "$commands" >&2
printf '%s\n' "$commands" >installed
