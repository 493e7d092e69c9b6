"""What Helm makes of deploy/chart fits the servers, the image, the rules and Kubernetes.

rendered/ has what it makes of each set of values (`make chart` writes it), but for what it takes from beside the chart.
It is read here as a pod gets it. So these tests need no Helm; where it is there, `make check-chart` says whether that
is still what it makes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml
from kubernetes_validate.utils import latest_version, validate

from handfast.server.chassis.security.grants import parse_grants
from handfast.server.chassis.security.tokens import parse_revoked
from handfast.server.cli.dev.folder import DevCredentials
from handfast.server.cli.settings import SERVERS
from handfast.server.process.flags import read_settings, settings_of
from handfast.server.process.settings import METRICS_PORT_OFFSET, ServerSettings
from handfast.server.suite import DATABASES, SuiteSettings
from tests.cli.processes import Process
from tests.deploy.chart import CHART, DATABASE_CA, ETC, Rendered, helm, manifests
from tests.deploy.containerfile import environment as of_the_image
from tests.deploy.containerfile import instructions
from tests.deploy.files import DEPLOY, prometheus, targets
from tests.deploy.promql import Series
from tests.project.commands import ROOT, find_tool, run, run_alone
from tests.project.readme import dangling_links
from tools.set_version import as_semver

CHECK = Path("tools/check-chart.sh")
SETS = ("small", "production", "participants")
KUBERNETES = ("1.27.0", "1.33.0", latest_version())
PORT = int(of_the_image()["HANDFAST_USERS_LISTEN"].rpartition(":")[2])


@pytest.fixture(params=SETS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(request.param)


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_takes_what_it_is_told_with_what_the_image_says(
    rendered: Rendered, server: str, dev: DevCredentials, tmp_path: Path
) -> None:
    assert rendered.container(server)["args"] == ["serve", server]
    told = rendered.told(server)
    known = {setting.variable for setting in settings_of(SuiteSettings, server, "")}
    (url,) = rendered.secrets(server)
    assert {url, *told} <= known
    secrets = {"tls.crt": dev.certificate(server), "tls.key": dev.key(server), "ca.crt": dev.ca}
    files = rendered.mounted(server, secrets, tmp_path)
    assert {value for value in told.values() if value.startswith(ETC)} == files.keys()
    given = {name: files.get(value, value) for name, value in (of_the_image() | told).items()}
    given[url] = f"postgresql://{server}:secret@db/{server}"
    settings = read_settings(SuiteSettings, server, "", {}, given)
    assert settings.listen == f"0.0.0.0:{PORT}"
    assert settings.database_url == given[url]
    hosts = {each: f"handfast-{each}.handfast.svc.cluster.local:{PORT}" for each in SERVERS}
    assert settings.accounts_address == hosts.pop("accounts")
    expected = (
        hosts | {"credits": "credits.credits.svc.cluster.local:50061"} if "HANDFAST_PARTICIPANTS" in told else hosts
    )
    assert settings.participants == expected


def test_participants_of_others_are_told_of() -> None:
    assert "HANDFAST_PARTICIPANTS" in Rendered("participants").told("accounts")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["production", "participants"])
def test_a_server_in_production_is_as_secure_as_that_of_up(name: str, server: str, dev: DevCredentials) -> None:
    told = Rendered(name).told(server)
    assert dev.of_server(server).keys() <= told.keys()
    assert told["HANDFAST_AUTHENTICATION"] == "enforce"
    assert not any("ALLOW" in variable for variable in told)


@pytest.mark.parametrize("name", ["production", "participants"])
def test_servers_may_do_at_each_other_what_those_of_up_may(name: str, dev: DevCredentials) -> None:
    data = Rendered(name)("ConfigMap", "authentication")["data"]
    grants = parse_grants(data["grants.toml"].encode())
    by_server = {spiffe.rpartition("/")[2]: scopes for spiffe, scopes in parse_grants(dev.grants.read_bytes()).items()}
    for server in SERVERS:
        assert grants[f"handfast-{server}.handfast.svc.cluster.local"] == by_server[server]
    assert parse_revoked(data["revoked.txt"].encode()) == frozenset()


def test_migrations_have_the_database_of_every_server(rendered: Rendered) -> None:
    assert rendered.container("migrate")["args"] == ["migrate"]
    secrets = rendered.secrets("migrate")
    assert secrets.keys() == {SuiteSettings.variable(server, "database_url") for server in DATABASES}
    for server in SERVERS:
        ((variable, secret),) = rendered.secrets(server).items()
        assert secrets[variable]["name"] == secret["name"] == f"handfast-{server}-database"
        assert (secret["key"], secrets[variable]["key"]) == ("url", "migrate-url")
    # Besides, they keep the rules of servers about databases.
    told = rendered.told("migrate")
    assert told == {} if rendered.is_open else {"HANDFAST_DATABASE_MUST_REPLICATE": "true"}.items() <= told.items()
    assert told.items() <= rendered.told("users").items()
    annotations = rendered("Job", "migrate")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_no_password_is_in_a_manifest(rendered: Rendered) -> None:
    assert not rendered.kind("Secret")
    assert "postgresql://" not in json.dumps(rendered.all)


@pytest.mark.parametrize("pod", [*SERVERS, "migrate"])
def test_every_pod_has_the_ca_by_which_urls_trust_databases(rendered: Rendered, pod: str) -> None:
    mounts = {each["mountPath"]: each["name"] for each in rendered.container(pod)["volumeMounts"]}
    secret = rendered.volumes(pod)[mounts[str(Path(DATABASE_CA).parent)]]["secret"]
    assert secret["items"] == [{"key": "ca.crt", "path": Path(DATABASE_CA).name}]
    assert secret["optional"]


@pytest.mark.parametrize("server", SERVERS)
def test_ports_are_those_of_the_server_and_its_name_has_all_pods(rendered: Rendered, server: str) -> None:
    ports = {each["name"]: each["containerPort"] for each in rendered.container(server)["ports"]}
    assert ports == {"grpc": PORT, "metrics": PORT + METRICS_PORT_OFFSET}
    assert instructions("EXPOSE").__next__().split() == [str(port) for port in ports.values()]
    service = rendered("Service", server)["spec"]
    assert service["clusterIP"] == "None"
    assert {each["name"]: each["port"] for each in service["ports"]} == ports
    assert all(each["targetPort"] == each["name"] for each in service["ports"])
    # What a mesh takes for gRPC in plain text it reads, and cannot where that is TLS.
    assert [each.get("appProtocol") for each in service["ports"]] == ["grpc" if rendered.is_open else "tls", None]


def test_what_selects_pods_finds_those_of_its_own_server_and_no_other(rendered: Rendered) -> None:
    pods = [*SERVERS, "migrate", "test"]
    for each in rendered.all:
        spec = each.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is None or each["kind"] == "ServiceMonitor":
            continue
        wanted = selector if each["kind"] == "Service" else selector["matchLabels"]
        found = [name for name in pods if wanted.items() <= rendered.pod(name)["metadata"]["labels"].items()]
        assert [f"handfast-{name}" for name in found] == [each["metadata"]["name"]]


@pytest.mark.parametrize("server", SERVERS)
def test_probes_ask_for_what_servers_answer_by_the_scheme_that_they_speak(
    rendered: Rendered, server: str, running: Process
) -> None:
    container = rendered.container(server)
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    scheme = "HTTPS" if any("TLS_CERTIFICATE" in name for name in rendered.told(server)) else "HTTP"
    assert all(each["scheme"] == scheme and each["port"] == "metrics" for each in asked.values())
    paths = {probe: each["path"] for probe, each in asked.items()}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    for path in set(paths.values()):
        with urllib.request.urlopen(f"http://127.0.0.1:{running.first_port + METRICS_PORT_OFFSET}{path}") as reply:
            assert reply.status == 200


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_is_given_time_to_stop_and_callers_time_to_find_the_next(rendered: Rendered, server: str) -> None:
    grace = float(rendered.told(server)["HANDFAST_GRACE"])
    assert rendered.pod(server)["spec"]["terminationGracePeriodSeconds"] > grace + 5
    spec = rendered("Deployment", server)["spec"]
    assert f"minReadySeconds: {spec['minReadySeconds']}" in (ROOT / "docs" / "operations.md").read_text()
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("pod", [*SERVERS, "migrate"])
def test_a_pod_is_not_replaced_because_the_chart_has_another_version(rendered: Rendered, pod: str) -> None:
    labels = rendered.pod(pod)["metadata"]["labels"]
    assert labels.keys() == {f"app.kubernetes.io/{each}" for each in ("name", "instance", "part-of")}


def test_a_test_of_the_release_asks_each_server_by_its_name(rendered: Rendered) -> None:
    pod = rendered("Pod", "test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["restartPolicy"] == "Never"
    asked = [each["args"][:2] for each in rendered.containers("test")]
    assert asked == [["health", f"handfast-{server}.handfast.svc.cluster.local:{PORT}"] for server in SERVERS]


def test_helm_says_why_a_hook_has_failed_and_the_page_asks_for_no_logs_that_it_cannot_find(rendered: Rendered) -> None:
    printed = {
        name: rendered(kind, name)["metadata"]["annotations"]["helm.sh/hook-output-log-policy"]
        for kind, name in (("Job", "migrate"), ("Pod", "test"))
    }
    assert printed == {"migrate": "hook-failed", "test": "hook-succeeded,hook-failed"}
    # All that Kubernetes waits between tries, 10 seconds and each time twice as many, before Helm's five minutes end.
    assert sum(10 * 2**each for each in range(rendered("Job", "migrate")["spec"]["backoffLimit"])) < 150
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "helm test handfast" in page
    assert "--logs" not in page  # as that names no container


@pytest.mark.parametrize("pod", [*SERVERS, "migrate", "test"])
def test_a_pod_may_do_no_more_than_the_image_needs(rendered: Rendered, pod: str) -> None:
    (user,) = instructions("USER")
    security = rendered.pod(pod)["spec"]["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user == f"{security['fsGroup']}:{security['fsGroup']}"
    assert security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert rendered.pod(pod)["spec"]["automountServiceAccountToken"] is False
    for container in rendered.containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= container["resources"].keys()


def test_autoscaling_goes_by_a_metric_that_is_exported_and_leaves_replicas_alone(exported: Series) -> None:
    rendered = Rendered("production")
    for server in SERVERS:
        spec = rendered("HorizontalPodAutoscaler", server)["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"handfast-{server}"}
        assert "replicas" not in rendered("Deployment", server)["spec"]
        (metric,) = spec["metrics"]
        named = metric["pods"]["metric"]
        for label, value in named["selector"]["matchLabels"].items():
            assert value in exported[named["name"]][label]
        assert 0 < int(metric["pods"]["target"]["averageValue"]) < ServerSettings.threads
    assert rendered("HorizontalPodAutoscaler", "accounts")["spec"]["maxReplicas"] == 6


def test_policies_of_the_network_let_through_what_servers_need_and_nothing_else() -> None:
    rendered = Rendered("participants")
    suite = {f"handfast-{server}" for server in SERVERS}
    for pod in (*SERVERS, "migrate", "test"):
        spec = rendered("NetworkPolicy", pod)["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        incoming = {port["port"]: rule["from"] for rule in spec.get("ingress", []) for port in rule["ports"]}
        outgoing = {port["port"]: rule.get("to") for rule in spec["egress"] for port in rule["ports"]}
        assert outgoing[53] is None
        assert outgoing.get(5432, "unused")  # by addresses
        if pod in SERVERS:
            assert incoming.keys() == {PORT, PORT + METRICS_PORT_OFFSET}
            assert outgoing.keys() == {53, 5432, PORT, 443, 50061}
        else:
            assert not incoming
            assert outgoing.keys() == {53, 5432 if pod == "migrate" else PORT}
        for peers in (rules[PORT] for rules in (incoming, outgoing) if PORT in rules):
            names, instance = peers[0]["podSelector"]["matchExpressions"]
            assert set(names["values"]) == suite | {rendered("Pod", "test")["metadata"]["name"]}
            assert instance["values"] == ["handfast"]


def test_a_job_of_migrations_finds_its_policy_of_the_network_before_it_starts() -> None:
    rendered = Rendered("production")
    job, policy = (rendered(kind, "migrate")["metadata"]["annotations"] for kind in ("Job", "NetworkPolicy"))
    assert policy["helm.sh/hook"] == job["helm.sh/hook"]
    assert int(policy["helm.sh/hook-weight"]) < int(job.get("helm.sh/hook-weight", 0))


def test_prometheus_scrapes_every_server_under_the_name_of_the_rules() -> None:
    rendered = Rendered("production")
    jobs = set()
    for server in SERVERS:
        # As https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.ServiceMonitor has it.
        monitor = rendered("ServiceMonitor", server)
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert monitor["spec"].keys() == {"jobLabel", "selector", "endpoints"}
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (each for each in rendered.kind("Service") if wanted <= each["metadata"]["labels"].items())
        jobs.add(service["metadata"]["labels"][monitor["spec"]["jobLabel"]])
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
        assert endpoint["scheme"] == "https"
        tls = endpoint["tlsConfig"]
        assert tls["serverName"] == f"{service['metadata']['name']}.handfast.svc.cluster.local"
        assert tls["ca"]["secret"] == {"name": "handfast-ca", "key": "ca.crt"}
        assert tls["cert"]["secret"]["name"] == tls["keySecret"]["name"] == "handfast-prometheus-tls"
    assert jobs == {job for job, _ in targets()}


@pytest.mark.parametrize(("file", "source"), [("rules.yaml", "prometheus"), ("handfast.json", "grafana")])
def test_rules_and_dashboard_of_the_chart_are_those_beside_it(file: str, source: str) -> None:
    assert (CHART / "files" / file).is_symlink()
    assert (CHART / "files" / file).samefile(DEPLOY / source / file)


def test_the_page_that_leads_through_it_names_each_set_of_values_and_its_links_lead_somewhere() -> None:
    page = ROOT / "docs" / "deploy.md"
    assert dangling_links(page) == []
    for values in (CHART / "values").iterdir():
        assert f"](../deploy/chart/values/{values.name})" in page.read_text()


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifests(rendered: Rendered, version: str) -> None:
    for each in rendered.all:
        if each["kind"] != "ServiceMonitor":  # which is not Kubernetes' own
            validate(each, version, strict=True)


def test_the_chart_has_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert chart["version"] == as_semver(version)


def test_helm_gives_what_is_rendered() -> None:
    if find_tool("helm") is None:
        pytest.skip("helm is neither in .tools/bin nor on the PATH; `make helm` builds it")
    done = run(ROOT / CHECK)
    assert done.returncode == 0, done.stdout


def test_helm_hands_the_rules_to_prometheus_as_they_are_but_for_which_suite_may_be_absent() -> None:
    arguments = ("--namespace", "shop", "--set", "monitoring.enabled=true")
    printed = helm("staging", CHART, *arguments)
    (rules,) = (each for each in manifests(printed) if each["kind"] == "PrometheusRule")
    here = json.dumps(prometheus("rules.yaml")).replace("absent(up{", 'absent(up{suite=\\"shop/staging\\", ')
    assert rules["spec"] == json.loads(here)
    assert json.dumps(rules["spec"]).count("shop/staging") == len(SERVERS)
    assert rules["apiVersion"] == "monitoring.coreos.com/v1"
    relabelings = [
        each["spec"]["endpoints"][0]["relabelings"] for each in manifests(printed) if each["kind"] == "ServiceMonitor"
    ]
    assert relabelings == [[{"targetLabel": "suite", "replacement": "shop/staging"}]] * len(SERVERS)


def test_helm_hands_the_dashboard_to_grafana_as_it_is() -> None:
    printed = helm("handfast", CHART, "--set", "monitoring.dashboard=true", "--show-only", "templates/dashboard.yaml")
    (dashboard,) = manifests(printed)
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    (text,) = dashboard["data"].values()
    assert json.loads(text) == json.loads((DEPLOY / "grafana" / "handfast.json").read_text())
    assert len(text) < 100_000  # a release, which is compressed, has to fit into 1 MiB with it


@pytest.mark.parametrize("asked_for", ["", "1"])
def test_without_helm_the_check_says_so_and_fails_where_ci_asks_for_it(tmp_path: Path, asked_for: str) -> None:
    done = run_alone(CHECK, tmp_path, CI="true", CI_HELM=asked_for)
    assert done.returncode == (1 if asked_for else 0)
    assert "make helm" in done.stdout
    assert ("NOT CHECKED" in done.stdout) is not bool(asked_for)


def test_a_suite_that_is_told_so_runs_by_the_names_of_a_cluster(tmp_path: Path) -> None:
    isolate = ROOT / "tests" / "failover" / "isolate.sh"
    if shutil.which("unshare") is None or run(isolate, "ip", "link").returncode != 0:
        pytest.skip("the system lets this user make no namespaces, or has no `ip`")
    done = run(isolate, sys.executable, "-m", "tests.deploy.cluster", tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("The chart's suite has answered.\n")
