"""Who reads the code follows a GetUser, from the wire to the reply, through few files."""

from __future__ import annotations

import sys

from tests.project.commands import succeed

MOST_FILES = 13
"""How many files of the project have a part in it. Lower this when there are fewer; never raise it."""


def test_a_get_user_passes_through_few_files() -> None:
    files = succeed((sys.executable, "-m", "tests.project.way_of_a_call")).split()
    print(*files, sep="\n")
    assert len(files) <= MOST_FILES, "\n".join(files)
    assert any(file.endswith("users/service.py") for file in files)
