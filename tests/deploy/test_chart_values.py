"""What may be said to Helm of deploy/chart: each value has a rule, and what is wrong is refused by its name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate.utils import validate

from handfast.server.cli.dev.folder import DevCredentials
from handfast.server.cli.settings import SERVERS
from handfast.server.process.flags import read_settings
from handfast.server.suite import LONGEST_NAME, NAME, NAMES_IN_USE, SuiteSettings
from tests.deploy.chart import CHART, ETC, Rendered, helm, manifests
from tests.deploy.containerfile import environment as of_the_image
from tests.project.commands import ROOT

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PRODUCTION = CHART / "values" / "production.yaml"
OF_PODS = {"env", "podLabels", "podAnnotations", "priorityClassName", "nodeSelector", "tolerations", "affinity"}
"""What the Job of migrations has of its own, and else takes from `server`."""


def test_every_value_has_a_rule_and_every_rule_a_value() -> None:
    jsonschema.validate(VALUES, SCHEMA)
    assert SCHEMA["properties"].keys() - {"global", "enabled"} == VALUES.keys()  # those are Helm's own
    for name, rule in SCHEMA["properties"].items():
        if "properties" in rule:
            assert rule["properties"].keys() == VALUES[name].keys() | (OF_PODS if name == "migrate" else set())
    of_one = SCHEMA["definitions"]["ofOneServer"]["properties"]
    assert of_one.keys() == VALUES["server"].keys() | VALUES["users"].keys()


def test_a_chart_that_has_this_one_in_it_may_switch_it_off_by_a_condition() -> None:
    jsonschema.validate(VALUES | {"enabled": True}, SCHEMA)


def objects(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield (*path, name)
            yield from objects(value, (*path, name))


@pytest.mark.parametrize("path", [each for each in objects(VALUES) if "resources" not in each], ids=".".join)
def test_a_group_of_values_that_is_taken_away_is_missed_by_its_name(path: tuple[str, ...]) -> None:
    values = deepcopy(VALUES)
    group = reduce(getitem, path[:-1], values)
    del group[path[-1]]  # which is what Helm does where it is null
    with pytest.raises(jsonschema.ValidationError, match=f"'{path[-1]}' is a required property"):
        jsonschema.validate(values, SCHEMA)


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"replica": 3}, "replica"),
    ({"server": {"env": {"HANDFAST_THREADS": 8}}}, "HANDFAST_THREADS"),
    ({"authentication": {"mode": False}}, "mode"),
    ({"authentication": {"tokens": {"keys": "https://issuer.example", "issuer": "", "audience": ""}}}, "issuer"),
    ({"authentication": {"revoked": ["#5"]}}, "revoked"),
    ({"authentication": {"revoked": ["5\nelse: x"]}}, "revoked"),
    ({"authentication": {"grants": {"website": ["users. read"]}}}, "website"),
    ({"participants": {"credits": "credits"}}, "credits"),
    ({"participants": {"Credits": "credits:50061"}}, "Credits"),
    ({"participants": {"c" * 33: "credits:50061"}}, "c" * 33),
    ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "maxUnavailable"),
    ({"monitoring": {"interval": "0s"}}, "interval"),
    ({"image": {"repository": "registry.example/handfast@sha256:5"}}, "repository"),
    ({"server": {"podLabels": {"app.kubernetes.io/name": "users"}}}, "app.kubernetes.io/name"),
    ({"extraVolumes": [{"name": "certificate", "emptyDir": {}}]}, "extraVolumes"),
    ({"enabled": False}, "enabled"),
]


@pytest.mark.parametrize(
    ("group", "value"),
    [
        ("podDisruptionBudget", {"maxUnavailable": "100%"}),
        ("monitoring", {"interval": "1d"}),
        ("authentication", {"tokens": {"keys": "/etc/issuer/jwks.json", "issuer": "issuer", "audience": "handfast"}}),
    ],
    ids=str,
)
def test_values_that_servers_or_kubernetes_take_are_taken(group: str, value: Mapping[str, Any]) -> None:
    jsonschema.validate(VALUES | {group: VALUES[group] | value}, SCHEMA)


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_values_that_are_wrong_are_refused_by_their_names(values: Mapping[str, Any], named: str) -> None:
    over = {name: VALUES.get(name, {}) | value if isinstance(value, dict) else value for name, value in values.items()}
    with pytest.raises(jsonschema.ValidationError) as refused:
        jsonschema.validate(VALUES | over, SCHEMA)
    assert named in f"{refused.value.json_path} {refused.value.message}"


def test_names_fit_however_long_that_of_the_release_is() -> None:
    for each in manifests(helm("r" * 53, CHART)):
        assert len(each["metadata"]["name"]) <= 63
        validate(each, "1.33.0", strict=True)


def test_a_release_and_secrets_whose_names_look_like_other_values_keep_them() -> None:
    secrets = [
        "users.database.secret=1",
        "users.database.migrateKey=2",
        "users.certificate.secret=1e5",
        "tls.ca.secret=true",
    ]
    for each in manifests(helm("true", CHART, "--namespace", "456", "--set-string", ",".join(secrets))):
        assert each["metadata"]["namespace"] == "456"
        validate(each, "1.33.0", strict=True)


def test_pods_have_what_is_set_of_pods_and_those_of_migrations_too(tmp_path: Path) -> None:
    of_pods = {
        "priorityClassName": "high",
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "team", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    volumes, mounts = [{"name": "extra", "emptyDir": {}}], [{"name": "extra", "mountPath": "/extra"}]
    variables = [{"secretRef": {"name": "extra"}}]
    injected = {"podLabels": {"team": "one"}, "podAnnotations": {"sidecar.istio.io/inject": "true"}}
    values = {
        "serviceAccountName": "handfast",
        "extraVolumes": volumes,
        "extraVolumeMounts": mounts,
        "extraEnvFrom": variables,
        "server": of_pods | injected,
        "migrate": {"podAnnotations": {"sidecar.istio.io/inject": "false"}},
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in manifests(helm("handfast", CHART, "--values", file))
        if each["kind"] in ("Deployment", "Job")
    }
    assert len(pods) == len(SERVERS) + 1
    for name, pod in pods.items():
        spec = pod["spec"]
        assert of_pods.items() <= spec.items()
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("handfast", False)
        assert spec["volumes"][-1:] == volumes
        (container,) = spec["containers"]
        assert container["volumeMounts"][-1:] == mounts
        assert container["envFrom"] == variables
        assert pod["metadata"]["labels"]["team"] == "one"
        inject = "false" if name == "handfast-migrate" else "true"
        assert pod["metadata"]["annotations"] == {"sidecar.istio.io/inject": inject}


def test_callers_may_have_tokens_and_no_certificates_as_the_page_says(tmp_path: Path, dev: DevCredentials) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    (told,) = (each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "PEER_TOKEN" in each)
    file = tmp_path / "values.yaml"
    file.write_text(told)
    printed = list(
        manifests(helm("handfast", CHART, "--values", CHART / "values" / "production.yaml", "--values", file))
    )
    grants = tomllib.loads(Rendered("production")("ConfigMap", "authentication")["data"]["grants.toml"])["grants"]
    (needed,) = re.findall(r"need\ntokens of their own(.*?)```yaml", page, re.DOTALL)
    del grants["website.shop.svc.cluster.local"]
    assert set(re.findall(r"`(\w+\.\w+)`", needed)) == {scope for scopes in grants.values() for scope in scopes}
    for server in SERVERS:
        (pod,) = (
            each["spec"]["template"]["spec"]
            for each in printed
            if (each["kind"], each["metadata"]["name"]) == ("Deployment", f"handfast-{server}")
        )
        (container,) = pod["containers"]
        folders = {each["mountPath"] for each in container["volumeMounts"]}
        given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        token = given[f"HANDFAST_{server.upper()}_PEER_TOKEN"]
        assert str(Path(token).parent) in folders
        here = {token: dev.token("admin"), f"{ETC}/certificate/tls.crt": dev.certificate(server)}
        here |= {f"{ETC}/certificate/tls.key": dev.key(server), f"{ETC}/ca/ca.crt": dev.ca}
        here |= {f"{ETC}/authentication/revoked.txt": dev.revoked_tokens}
        given = of_the_image() | {name: str(here.get(value, value)) for name, value in given.items()}
        url = {SuiteSettings.variable(server, "database_url"): "postgresql://db/name"}
        settings = read_settings(SuiteSettings, server, "", {}, given | url)
        assert (settings.authentication, settings.tls_client_ca) == ("enforce", "")


def test_what_is_granted_to_servers_of_the_suite_is_added_to_what_they_need(tmp_path: Path) -> None:
    host = "handfast-users.default.svc.cluster.local"
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"authentication": {"grants": {host: ["users.read"]}}}))
    (printed,) = manifests(helm("handfast", CHART, "--values", file, "--show-only", "templates/authentication.yaml"))
    grants = tomllib.loads(printed["data"]["grants.toml"])["grants"]
    assert grants[host] == ["transactions.run", "transactions.resolve", "users.read"]
    assert len(grants) == len(SERVERS)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("participants.users=users:50061", "names that the suite has no other use for, not users"),
        ("participants.credits=credits:65536", "participants.credits must have a port, not credits:65536"),
        ("users.env.HANDFAST_USERS_DATABASE_URL=secret", "users.database and so on say which secret"),
        ("users.env.HANDFAST_USERS_DATABASE_URL_FILE=/url", "users.database and so on say which secret"),
        ("migrate.env.HANDFAST_USERS_DATABASE_URL=secret", "users.database and so on say which secret"),
        ("server.env.HANDFAST_USERS_LISTEN=0.0.0.0:6000", "Services and probes know the ports"),
        ("server.env.HANDFAST_GRACE=60", "gracePeriodSeconds says it"),
        (
            "accounts.autoscaling.maxReplicas=2",
            "autoscaling of accounts must have maxReplicas no lower than minReplicas",
        ),
    ],
)
def test_helm_refuses_what_servers_or_kubernetes_would_refuse_or_not_keep_to(value: str, rule: str) -> None:
    how = "--set" if "Replicas" in value else "--set-string"
    assert rule in helm("handfast", CHART, "--values", PRODUCTION, how, value)


@pytest.mark.parametrize("name", ["123", "shop.handfast"])
def test_helm_refuses_a_release_whose_services_kubernetes_would_refuse(name: str) -> None:
    assert f"the release must have a name of small letters, digits and -, with a letter first, not {name}" in helm(
        name, CHART
    )


def test_a_server_may_have_less_of_a_choice_of_machines_than_all(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    of_all = {"nodeSelector": {"disk": "fast"}, "affinity": {"nodeAffinity": {}}}
    file.write_text(yaml.safe_dump({"server": of_all, "users": {"nodeSelector": {}, "affinity": {"podAffinity": {}}}}))
    users, preferences, _ = (
        each["spec"]["template"]["spec"]
        for each in manifests(helm("handfast", CHART, "--values", file))
        if each["kind"] == "Deployment"
    )
    assert "nodeSelector" not in users
    assert users["affinity"] == {"podAffinity": {}}
    assert of_all.items() <= preferences.items()


def test_helm_refuses_the_names_of_participants_that_servers_refuse() -> None:
    text = (CHART / "templates" / "_pods.tpl").read_text()
    (names,) = re.findall(r"if has \$name \(list (.+)\) }}", text)
    assert set(shlex.split(names)) == NAMES_IN_USE
    rule = SCHEMA["properties"]["participants"]["propertyNames"]
    assert (rule["pattern"], rule["maxLength"]) == (f"^{NAME.pattern}$", LONGEST_NAME)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("authentication.mode=enforce", "may do nothing"),
        ("authentication.mode=observe", "All may do everything"),
        ("authentication.mode=off", "by mutual TLS.\n"),
        ("server.env.HANDFAST_TLS_CLIENT_CA=", "by TLS. Who"),
    ],
)
def test_what_helm_prints_in_the_end_says_who_may_do_what(tmp_path: Path, value: str, said: str) -> None:
    chart = shutil.copytree(CHART, tmp_path / "handfast")
    show = '{{ include "handfast/templates/NOTES.txt" . | toJson }}'
    (chart / "templates" / "shown.yaml").write_text(f"notes: {show}")
    printed = helm("handfast", chart, "--set-string", value, "--show-only", "templates/shown.yaml")
    (shown,) = manifests(printed)
    assert said in shown["notes"]
