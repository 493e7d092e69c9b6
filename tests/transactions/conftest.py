"""Databases of a test's own, where it needs one without servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases.postgresql import postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/data.sqlite3"
        return
    with postgresql(tmp_path / "postgresql") as server:
        server.create_databases()
        yield server.url("users")
