"""The Containerfile fits the servers: what it copies, and on which port they listen. `tests/image` builds it."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import PurePath

from handfast.server.cli.settings import SERVERS
from handfast.server.process.settings import METRICS_PORT_OFFSET
from handfast.server.suite import SuiteSettings
from tests.deploy.containerfile import PATH, copied, environment, instructions
from tests.project.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_server_listens_on_the_same_port_which_is_exposed_with_that_of_metrics() -> None:
    variables = {SuiteSettings.variable(server, "listen") for server in SERVERS}
    listen = {value for name, value in environment().items() if name in variables}
    assert variables <= environment().keys()
    (address,) = listen
    port = int(address.rpartition(":")[2])
    (exposed,) = instructions("EXPOSE")
    assert exposed == f"{port} {port + METRICS_PORT_OFFSET}"
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:3] == ["handfast", "health", f"localhost:{port}"]


def test_it_gives_no_setting_that_opens_a_server_to_others() -> None:
    ours = {name for name in environment() if name.startswith("HANDFAST_")}
    assert ours == {SuiteSettings.variable(server, "listen") for server in SERVERS}


def test_it_copies_what_the_package_is_built_from_and_the_build_is_given_no_more() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    sources = {str(PurePath(each).parent) for each in wheel["only-include"]}
    assert sources == set(wheel["sources"])
    project = PROJECT["project"]
    files = {"pyproject.toml", "constraints.txt", *project["license-files"]}
    assert copied() == sources | files
    given = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in given if line.startswith("!")} == copied()
    assert "*" in given


def test_what_it_installs_by_default_are_extras_of_the_package() -> None:
    (extras,) = (line.partition("=")[2] for line in instructions("ARG") if line.startswith("EXTRAS="))
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_its_base_has_a_python_that_the_package_is_for_and_both_stages_are_on_it() -> None:
    (base,) = (line.partition("=")[2] for line in instructions("ARG") if line.startswith("BASE="))
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)
    assert version is not None, base
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["project"]["classifiers"]
    assert list(instructions("FROM")) == ["${BASE} AS build", "${BASE}"]


def test_its_labels_are_those_of_the_package() -> None:
    (labels,) = (dict(each.split("=", 1) for each in shlex.split(line)) for line in instructions("LABEL"))
    project = PROJECT["project"]
    assert labels == {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.licenses": project["license"],
    }


def test_dependencies_are_a_layer_that_a_change_of_the_sources_leaves_as_it_is() -> None:
    build, _ = PATH.read_text().split("\nFROM ${BASE}\n")
    before, after = build.split("\nRUN ")[1:]
    assert "COPY " in before
    assert '".[${EXTRAS}]"' in before
    assert "--no-deps" in after


def test_what_it_compiles_does_not_depend_on_the_times_of_files() -> None:
    """Builds that are to be reproducible set these to others, and each start would compile the sources anew."""
    commands = list(instructions("RUN"))
    assert all("--no-compile" in each for each in commands if "pip --python" in each)
    compiled = [each for each in commands if "compileall" in each]
    assert all("--invalidation-mode unchecked-hash" in each for each in compiled)
    assert len(compiled) == len(("packages", "standard library"))


def test_its_user_is_a_number_other_than_0() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
