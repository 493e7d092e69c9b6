#!/bin/sh
# Checks deploy/chart: that Helm finds nothing wrong, and makes of each set of values what tests/deploy/rendered has,
# which tests hold against the servers also where Helm is not there.
#
#     tools/check-chart.sh           says what differs
#     tools/check-chart.sh --write   writes those files anew
#
# Without Helm it skips, and says so; CI has to have it where CI_HELM is set.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.tools/bin:$PATH"
values=deploy/chart/values rendered=tests/deploy/rendered

if ! command -v helm >/dev/null; then
    echo "chart: helm is neither in .tools/bin nor on the PATH; \`make helm\` builds it where Go is" >&2
    if [ -n "${CI_HELM:-}" ]; then
        exit 1
    fi
    echo "chart: NOT CHECKED" >&2
    exit 0
fi

# Helm says on stderr, each time, that it follows the links to rules and dashboard. They are left out: who changes them
# needs no Helm.
render() {
    helm template handfast deploy/chart --namespace handfast --kube-version 1.33.0 "$@" 2>"$errors" ||
        { cat "$errors" >&2; return 1; }
}
without_links() {
    awk 'BEGIN { RS = "---\n"; ORS = "" } NF && !/kind: PrometheusRule|grafana_dashboard:/ { print RS $0 }'
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
errors=$scratch/errors
for set in small production participants; do
    case $set in
        participants) files="--values $values/production.yaml --values $values/participants.yaml" ;;
        *) files="--values $values/$set.yaml" ;;
    esac
    # shellcheck disable=SC2086  # several words
    helm lint deploy/chart --strict --quiet $files >"$errors" 2>&1 || { cat "$errors" >&2; exit 1; }
    # shellcheck disable=SC2086
    render $files >"$scratch/whole"
    without_links <"$scratch/whole" >"$scratch/$set.yaml"
    if [ "${1:-}" = --write ]; then
        cp "$scratch/$set.yaml" "$rendered/"
    elif ! diff -u "$rendered/$set.yaml" "$scratch/$set.yaml"; then
        echo "chart: $rendered/$set.yaml is not what Helm gives; \`make chart\` writes it" >&2
        exit 1
    fi
done
