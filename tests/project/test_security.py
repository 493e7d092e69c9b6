"""docs/security.md: what is shown runs, on a suite with certificates and tokens, and what is listed is there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.chassis.security.grants import parse_grants
from handfast.server.cli.dev.folder import DevCredentials
from handfast.server.suite import FIRST_PORT
from tests.cli.processes import Process, suite_up
from tests.grpcurl.conftest import grpcurl
from tests.grpcurl.tool import Grpcurl
from tests.project.commands import BIN, ROOT, run
from tests.project.readme import README, SECURITY, blocks, dangling_links, programs, quoted, shows_the_same, table

__all__ = ["grpcurl"]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with suite_up(tmp_path_factory.mktemp("secure"), {}, "--secure") as process:
        yield process


@pytest.fixture(scope="module")
def credentials(secure: Process) -> DevCredentials:
    return DevCredentials(secure.errors.parent / "data" / "dev-credentials")


def test_the_programs_of_the_readme_run_as_they_are(
    secure: Process, credentials: DevCredentials, tmp_path: Path
) -> None:
    environment = {f"HANDFAST_{name.upper()}_ADDRESS": address for name, address in secure.addresses.items()}
    for number, program in enumerate(programs(README)):
        script = tmp_path / f"shown_{number}.py"
        script.write_text(program.code)
        done = run(sys.executable, "-W", "error", script, cwd=tmp_path, **environment, **credentials.of_client())
        assert done.returncode == 0, done.stdout
        assert program.output is not None
        assert shows_the_same(program.output, done.stdout), done.stdout


@pytest.mark.parametrize("page", [README, SECURITY], ids=["README", "security"])
def test_the_calls_that_are_shown_are_answered(
    grpcurl: Grpcurl, secure: Process, credentials: DevCredentials, page: Path
) -> None:
    shown = [block.code for block in blocks("sh", page) if "dev-client.env" in block.code or "-cacert" in block.code]
    assert len(shown) >= 2
    code = "".join(shown).replace("var/dev-credentials", str(credentials.folder))
    for offset in range(3):
        code = code.replace(f":{FIRST_PORT + offset}", f":{secure.first_port + offset}")
    path = os.pathsep.join((str(grpcurl.path.parent), str(BIN), os.environ["PATH"]))
    done = run("sh", "-e", "-c", code, PATH=path)
    assert done.returncode == 0, f"{code}\n{done.stdout}"
    assert ("handfast.users.v1.UserService" in done.stdout) or ('"userId": "ada"' in done.stdout)


def test_each_scope_of_a_contract_is_explained_and_no_other() -> None:
    texts = [file.read_text() for file in (ROOT / "protos").rglob("*.proto")]
    of_contracts = {
        scope
        for text in texts
        for declared in re.findall(r"scopes: (\[[^]]*\]|\"[^\"]*\")", text)
        for scope in re.findall(r'"([^"{]+)"', declared)
    }
    explained = {scope for row in table(SECURITY, "scope", "lets its holder") for scope in quoted(row[0])}
    assert explained == of_contracts | {"self", "transactions.resolve", "callers.forward"}


def test_the_grants_that_are_shown_are_those_that_the_suite_needs(credentials: DevCredentials) -> None:
    (shown,) = blocks("toml", SECURITY)
    made = parse_grants(credentials.grants.read_bytes())
    assert parse_grants(shown.code.encode()) == {
        name.replace("handfast.test", "example.org"): scopes for name, scopes in made.items()
    }


def test_each_test_that_a_threat_names_is_there() -> None:
    rows = table(SECURITY, "who", "could try", "what stops it", "shown by")
    assert len(rows) > 10
    for row in rows:
        named = quoted(row[3])
        assert named, row
        for each in named:
            file, _, name = each.partition("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), each


def test_links_lead_somewhere() -> None:
    assert dangling_links(SECURITY) == []
