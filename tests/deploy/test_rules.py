"""Rules read what the servers export, and each alert is seen to fire, to stay quiet, and to be explained."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import ALERTS, RECORDED, RULES, RUNBOOK, prometheus
from tests.deploy.promql import Series, labels_of
from tests.project.commands import ROOT, find_tool, run, run_alone

# https://patroni.readthedocs.io/en/latest/rest_api.html#monitoring-endpoint
PATRONI: Series = {
    f"patroni_{name}": {
        "suite": {"staging"},
        "scope": {"handfast"},
        "name": {"one"},
        "instance": {"one:8008"},
        "job": {"patroni"},
    }
    for name in (
        "primary",
        "postgres_streaming",
        "sync_standby",
        "quorum_standby",
        "xlog_location",
        "xlog_replayed_location",
    )
}
CHECK = Path("tools/check-alerts.sh")


@pytest.fixture(scope="session")
def known(exported_with_authentication: Series) -> Series:
    """What is exported, and what rules record of it."""
    known = {**exported_with_authentication, **PATRONI}
    values = {label: values for labels in known.values() for label, values in labels.items()}
    for name, rule in RECORDED.items():
        known[name] = {label: values[label] for label in labels_of(rule["expr"], known)}
    return known


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_a_rule_reads_what_is_there(known: Series, rule: dict[str, Any]) -> None:
    labels = labels_of(rule["expr"], known) | set(rule.get("labels", ()))
    templates = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", templates)) <= labels


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_to_fire_and_to_stay_quiet(alert: str) -> None:
    tests = [test for group in prometheus("rules_test.yaml")["tests"] for test in group["alert_rule_test"]]
    fires = {bool(test["exp_alerts"]) for test in tests if test["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_much_it_matters_and_where_it_is_explained(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK.relative_to(ROOT)}#{alert}"


def test_the_runbook_explains_each_alert_and_no_other() -> None:
    explained = re.findall(r'^\| <a id="(\w+)"></a>`(\w+)` \| (\w+) \|', RUNBOOK.read_text(), re.MULTILINE)
    assert explained == [(alert, alert, rule["labels"]["severity"]) for alert, rule in ALERTS.items()]


def test_rules_pass_their_own_tests() -> None:
    if find_tool("promtool") is None and not os.environ.get("CI"):
        pytest.skip("promtool is neither in .tools/bin nor on the PATH; `make promtool` gets it")
    done = run(ROOT / CHECK)
    assert done.returncode == 0, done.stdout
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_without_promtool_the_check_says_so_and_fails_in_ci(tmp_path: Path, ci: str, status: int) -> None:
    done = run_alone(CHECK, tmp_path, CI=ci)
    assert done.returncode == status
    assert "make promtool" in done.stdout
    assert "SUCCESS" not in done.stdout
