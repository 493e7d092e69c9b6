"""grpcurl, and accounts made with it."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.grpcurl.tool import Grpcurl, Json
from tests.people import new_email
from tests.project.commands import find_tool

CREATE_ACCOUNT = "accounts.v1.AccountService/CreateAccount"


@pytest.fixture(scope="session")
def database_urls() -> dict[str, str]:
    """SQLite: what is tested here does not depend on the database."""
    return {}


@pytest.fixture(scope="session")
def grpcurl() -> Grpcurl:
    path = find_tool("grpcurl")
    if path is not None:
        return Grpcurl(path)
    missing = "grpcurl is neither in .tools/bin nor on the PATH; `make grpcurl` builds it where Go is installed"
    if os.environ.get("CI") and shutil.which("go"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def created(grpcurl: Grpcurl, addresses: dict[str, str]) -> Json:
    """What CreateAccount answered: an account whose theme is dark."""
    request = {"user": {"email": new_email()}, "preferences": {"values": {"theme": "dark"}}}
    return grpcurl.call(addresses["accounts"], CREATE_ACCOUNT, request)


@pytest.fixture
def user_id(created: Json) -> str:
    return str(created["account"]["user"]["userId"])
