"""What is secret in the settings may be in a file that nobody else can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.server.process.flags import read_settings
from handfast.server.process.settings import DatabaseSettings, SettingsError
from tests.security.authority import replace

VARIABLE = "HANDFAST_USERS_DATABASE_URL"
URL = "postgresql://ada:hunter2@db/users"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    replace(tmp_path / "url", f"{URL}\n".encode())
    return tmp_path / "url"


def database_url(flag: str | None = None, **environment: str) -> str:
    flags = {} if flag is None else {"database_url": flag}
    return read_settings(DatabaseSettings, "users", "127.0.0.1:0", flags, environment).database_url


def refusal(**environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        database_url(**environment)
    line = str(caught.value)
    assert "\n" not in line
    assert "hunter2" not in line
    return line


def test_the_url_of_a_database_may_be_in_a_file(file: Path) -> None:
    assert database_url(**{f"{VARIABLE}_FILE": str(file)}) == URL


def test_a_file_and_a_variable_for_the_same_are_refused(file: Path) -> None:
    line = refusal(**{f"{VARIABLE}_FILE": str(file), VARIABLE: URL})
    assert line == f"--database-url (or {VARIABLE}_FILE) is given by {VARIABLE}, too; say one of them"


def test_a_flag_wins_over_a_file(file: Path) -> None:
    assert database_url("sqlite:////tmp/x", **{f"{VARIABLE}_FILE": str(file)}) == "sqlite:////tmp/x"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(mode: int, file: Path) -> None:
    file.chmod(mode)
    line = refusal(**{f"{VARIABLE}_FILE": str(file)})
    assert line == (
        f"--database-url (or {VARIABLE}_FILE) names {file}, which others than its owner can reach (mode {mode:04o}); "
        f"say chmod 600 {file}"
    )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory" in refusal(**{f"{VARIABLE}_FILE": str(tmp_path / "none")})


def test_what_is_no_secret_has_no_file(file: Path) -> None:
    environment = {f"{VARIABLE}_FILE": str(file), "HANDFAST_THREADS_FILE": str(file)}
    assert read_settings(DatabaseSettings, "users", "127.0.0.1:0", {}, environment).threads == 16
