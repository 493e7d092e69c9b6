#!/usr/bin/env bash
# Runs a command for at most so many seconds, and then stops whatever it left behind: a mutant may do anything.
set -uo pipefail
seconds=$1
shift
export MUTANT_RUN="$$-$(date +%s%N)"
timeout --kill-after=5 "$seconds" "$@"
status=$?
for environ in /proc/[0-9]*/environ; do
    pid=${environ//[!0-9]/}
    if [ "$pid" != $$ ] && grep --quiet --text "MUTANT_RUN=$MUTANT_RUN" "$environ" 2>/dev/null; then
        kill -KILL "$pid" 2>/dev/null
    fi
done
exit $status
