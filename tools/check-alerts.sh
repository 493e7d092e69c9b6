#!/bin/sh
# Checks what deploy/ gives Prometheus: that it is well formed, and that alerts fire when they should and not before.
#
#     tools/check-alerts.sh
#
# Without promtool it skips, and says so; CI has to have it.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.tools/bin:$PATH"

if ! command -v promtool >/dev/null; then
    echo "alerts: promtool is neither in .tools/bin nor on the PATH; \`make promtool\` gets it where apt-get is" >&2
    if [ -n "${CI:-}" ]; then
        exit 1
    fi
    echo "alerts: NOT CHECKED" >&2
    exit 0
fi
promtool check config deploy/prometheus/prometheus.yaml
promtool test rules deploy/prometheus/rules_test.yaml
