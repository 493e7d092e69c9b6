from __future__ import annotations

from collections.abc import Iterator

import pytest

from .faces import Asyncio, Face, Synchronous
from .participants import Fakes, fakes


@pytest.fixture(params=[Synchronous(), Asyncio()], ids=["synchronous", "asyncio"])
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def suite() -> Iterator[Fakes]:
    with fakes() as running:
        yield running
