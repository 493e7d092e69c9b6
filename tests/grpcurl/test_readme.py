"""The grpcurl calls that are shown run as they are written, one after the other, and print what is shown."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from handfast.server.suite import FIRST_PORT
from tests.eventually import eventually
from tests.grpcurl.tool import Grpcurl
from tests.project.commands import BIN, ROOT, run
from tests.project.readme import ERRORS, README, TRANSACTIONS, Block, blocks, shows_the_same

VARIABLE = re.compile(r"^([A-Z]+)=(\S+)$", re.MULTILINE)
PRINTED = {
    "ID": r'"transactionId": "(.+)"',
    "DEADLINE": r'"deadline": "(.+)"',
    "READS": r"handfast-reads-bin: (\S+)",
    "REVISION": r'"revision":"(.+?)"',
}
"""Where calls print the variables that later calls name."""


@pytest.mark.parametrize(
    ("file", "fewest", "errors"),
    [(README, 5, True), (ERRORS, 1, True), (TRANSACTIONS, 8, False)],
    ids=["README", "errors", "transactions"],
)
def test_the_calls_that_are_shown(
    grpcurl: Grpcurl, addresses: dict[str, str], file: Path, fewest: int, errors: bool
) -> None:
    calls = [block for block in blocks("sh", file) if block.code.startswith("grpcurl") or VARIABLE.match(block.code)]
    assert len(calls) >= fewest
    assert any(map(_is_refused, calls)) is errors
    path = os.pathsep.join((str(grpcurl.path.parent), str(BIN), os.environ["PATH"]))
    environment = {f"HANDFAST_{name.upper()}_ADDRESS": address for name, address in addresses.items()} | {"PATH": path}
    variables: dict[str, str] = {}
    for block in calls:
        # Only the ports differ: those of the suite that the tests share. And what calls before have printed.
        code = block.code
        for offset, address in enumerate(addresses.values()):
            code = code.replace(f":{FIRST_PORT + offset}", f":{address.rpartition(':')[2]}")
        assert code != block.code or VARIABLE.match(code)
        code = VARIABLE.sub(lambda found: f"{found[1]}={variables[found[1]]}", code)
        code = "".join(f"{name}='{value}'\n" for name, value in variables.items()) + code
        sh = partial(run, "sh", "-e", "-c", code, cwd=ROOT, **environment)
        done = sh()
        if "handfast transactions show" in code and not _shows(block, done.stdout):
            eventually(partial(_shows_at_last, block, sh))  # once the participants have finished
            done = sh()
        assert (done.returncode != 0) is _is_refused(block), f"{code}\n{done.stdout}"
        assert _shows(block, done.stdout), f"{code}\n{done.stdout}"
        for name, pattern in PRINTED.items():
            if found := re.search(pattern, done.stdout):
                variables[name] = found[1]


def _shows(block: Block, printed: str) -> bool:
    return block.output is None or shows_the_same(block.output, printed)


def _shows_at_last(block: Block, sh: Callable[[], subprocess.CompletedProcess[str]]) -> bool:
    return _shows(block, sh().stdout)


def _is_refused(block: Block) -> bool:
    return block.output is not None and block.output.startswith("ERROR:")
