"""What is in deploy/, read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.project.commands import ROOT

DEPLOY = ROOT / "deploy"
RUNBOOK = ROOT / "docs" / "operations.md"


def prometheus(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    return content


RULES: list[dict[str, Any]] = [rule for group in prometheus("rules.yaml")["groups"] for rule in group["rules"]]
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def targets() -> Iterator[tuple[str, str]]:
    """The job and the address of each instance that prometheus.yaml scrapes."""
    for job in prometheus("prometheus.yaml")["scrape_configs"]:
        for static in job["static_configs"]:
            for target in static["targets"]:
                yield job["job_name"], target
