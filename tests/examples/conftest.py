"""The server of postage, shared by tests that only call it, and grpcurl to call it with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases.conftest import new_url
from tests.examples.server import Postage, started
from tests.grpcurl.conftest import grpcurl

__all__ = ["grpcurl", "new_url", "postage"]


@pytest.fixture(scope="session")
def postage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postage]:
    with started(tmp_path_factory.mktemp("postage") / "log") as postage:
        yield postage
