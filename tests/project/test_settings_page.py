"""docs/settings.md says what the code says, and what it shows works."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from handfast.server.cli.settings import OF_UP, SERVERS, on_this_machine
from handfast.server.process.flags import read_settings
from handfast.server.suite import SuiteSettings
from tests.project.commands import BIN, run
from tests.project.readme import blocks, dangling_links, shows_the_same
from tests.security.issuer import Issuer
from tools.settings_page import PAGE, page


def test_its_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "tools/settings_page.py writes them"


def test_its_links_lead_somewhere() -> None:
    assert dangling_links(PAGE) == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that it shows."""
    (example,) = blocks("toml", PAGE)
    file = tmp_path / "handfast.toml"
    file.write_text(example.code.replace("/run/secrets/accounts-database", "url"))
    (tmp_path / "url").touch(0o600)
    (tmp_path / "url").write_text("postgresql://handfast:hunter2@db/accounts\n")
    (tmp_path / "keys.json").write_bytes(Issuer().jwks)
    return file


def test_the_file_that_it_shows_has_settings_of_all_servers(file: Path) -> None:
    environment = {"HANDFAST_CONFIG": str(file)}
    suite = {
        server: read_settings(SuiteSettings, server, address, {}, environment)
        for server, address in on_this_machine().items()
    }
    assert [suite[server].threads for server in SERVERS] == [16, 16, 32]
    assert suite["accounts"].database_url == "postgresql://handfast:hunter2@db/accounts"
    assert tomllib.loads(file.read_text())["up"].keys() <= {setting.key for setting in OF_UP}


def test_what_it_says_to_print_is_printed(file: Path) -> None:
    (shown,) = (block for block in blocks("sh", PAGE) if block.output is not None)
    done = run("sh", "-c", shown.code, cwd=file.parent, PATH=f"{BIN}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert shows_the_same(shown.output or "", done.stdout), done.stdout
