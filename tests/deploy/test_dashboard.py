"""Every query of the dashboard finds series that the servers export, and the dashboard is in one piece."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.files import DEPLOY
from tests.deploy.promql import Series, labels_of

Json = dict[str, Any]

DASHBOARD: Json = json.loads((DEPLOY / "grafana" / "handfast.json").read_text())
VARIABLES: dict[str, Json] = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PLACES = {"$__rate_interval": "5m", "$percentile": "0.99"}
"""What Grafana puts in their place; any other variable is a choice of label values, in a pattern."""


def objects(within: object) -> Iterator[Json]:
    """All JSON objects, at any depth: panels in rows, too."""
    if isinstance(within, dict):
        yield within
    for each in within.values() if isinstance(within, dict) else within if isinstance(within, list) else ():
        yield from objects(each)


PANELS = [each for each in objects(DASHBOARD["panels"]) if "gridPos" in each]
TARGETS = [each for each in objects(DASHBOARD) if "expr" in each]
OF_VARIABLES = [variable["query"]["query"] for variable in VARIABLES.values() if variable["type"] == "query"]


def filled(query: str) -> str:
    for name, value in PLACES.items():
        query = query.replace(name, value)
    return re.sub(r'=~"\$\w+"', '=~".*"', query)


def test_each_panel_has_queries() -> None:
    assert len(PANELS) > 20
    for panel in PANELS:
        assert panel["type"] == "row" or all(target in TARGETS for target in panel["targets"]), panel["title"]
    assert len(OF_VARIABLES) == 4


@pytest.mark.parametrize("target", TARGETS, ids=[target["expr"] for target in TARGETS])
def test_a_query_reads_what_is_there(exported_with_authentication: Series, target: Json) -> None:
    labels = labels_of(filled(target["expr"]), exported_with_authentication)
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == labels - {
        "le",
        "suite",
    }  # which is chosen at the top


@pytest.mark.parametrize("query", OF_VARIABLES)
def test_a_variable_has_values(exported: Series, query: str) -> None:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert asked is not None
    selector, label = asked.groups()
    assert label in labels_of(filled(selector), exported)


def test_variables_are_defined_and_used() -> None:
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))  # not $__rate_interval: Grafana defines that
    assert used == set(VARIABLES)


def test_the_data_source_is_for_the_user_to_choose() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert all(panel["datasource"] == DATASOURCE for panel in PANELS if panel["type"] != "row")
    assert all(each["datasource"] == DATASOURCE for each in objects(DASHBOARD) if "datasource" in each)


def test_panels_have_their_own_ids_and_places() -> None:
    assert max(Counter(panel["id"] for panel in PANELS).values()) == 1
    assert all(panel["title"] for panel in PANELS)
    places = Counter(
        place
        for panel in PANELS
        for place in itertools.product(
            range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"]),
            range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"]),
        )
    )
    assert max(places.values()) == 1
    assert max(x for x, _y in places) == 23


def test_queries_of_a_panel_have_their_own_names() -> None:
    for panel in PANELS:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(names) == len(set(names)), panel["title"]
