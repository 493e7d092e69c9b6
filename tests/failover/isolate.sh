#!/bin/sh
# Runs a command in a network of its own, which nothing leaves and into which nothing comes, and in a tree of processes
# of its own, which ends with it. It needs no root where the system lets users make namespaces.
#
#     tests/failover/isolate.sh COMMAND ...
#
# The shell stays as the first process, to collect what loses its parent.
exec unshare --user --map-root-user --net --pid --mount-proc --fork --kill-child sh -c '"$@"; exit $?' sh "$@"
