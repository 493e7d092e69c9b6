"""The grpcurl calls that are shown run as they are written, one after the other, and print what is shown."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from handfast.server.suite import FIRST_PORT
from tests.grpcurl.tool import Grpcurl
from tests.project.readme import ERRORS, README, blocks, shows_the_same


@pytest.mark.parametrize(("file", "fewest"), [(README, 5), (ERRORS, 1)], ids=["README", "errors"])
def test_the_calls_that_are_shown(grpcurl: Grpcurl, addresses: dict[str, str], file: Path, fewest: int) -> None:
    calls = [block for block in blocks("sh", file) if block.code.startswith("grpcurl")]
    assert len(calls) >= fewest
    assert any(block.output and block.output.startswith("ERROR:") for block in calls)
    path = f"{grpcurl.path.parent}{os.pathsep}{os.environ['PATH']}"
    for block in calls:
        # Only the ports differ: those of the suite that the tests share.
        code = block.code
        for offset, address in enumerate(addresses.values()):
            code = code.replace(f":{FIRST_PORT + offset}", f":{address.rpartition(':')[2]}")
        assert code != block.code
        done = subprocess.run(
            ["sh", "-e", "-c", code],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        is_error = block.output is not None and block.output.startswith("ERROR:")
        assert (done.returncode != 0) is is_error, f"{code}\n{done.stdout}"
        assert block.output is None or shows_the_same(block.output, done.stdout), f"{code}\n{done.stdout}"
