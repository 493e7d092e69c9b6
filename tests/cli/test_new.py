"""`handfast new service` writes a service that is whole and in style, or says why not and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Template

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from handfast.server.chassis.security.check import problems
from handfast.server.cli.new.service import write
from handfast.server.process.command import Failure
from tests.cli.processes import Result
from tests.project.commands import BIN, ROOT, run
from tests.project.readme import blocks

NAME_RULE = (
    "must be up to 32 lower-case letters and digits, with single underscores between them and a letter first, such as "
    "loyalty_points, not {!r}"
)
REFUSED: dict[tuple[str, ...], str] = {
    ("Library",): f"NAME {NAME_RULE.format('Library')}",
    ("two__words",): f"NAME {NAME_RULE.format('two__words')}",
    ("../up",): f"NAME {NAME_RULE.format('../up')}",
    ("x" * 33,): f"NAME {NAME_RULE.format('x' * 33)}",
    ("lambda",): "NAME is lambda, which is a keyword of Python; choose another",
    ("users",): "NAME is users, which the suite has another use for; choose another",
    **{
        (name,): f"NAME is {name}, which the suite has another use for; choose another"
        for name in ("coordinator", "branches", "callers", "self")
    },
    ("tests",): "NAME is tests, which is another folder of each service; choose another",
    ("client",): "NAME is client, which credentials for development have another file of; choose another",
    ("json",): "NAME is json, and a Python module of this name is there already; choose another",
    ("grpc",): "NAME is grpc, and a Python module of this name is there already; choose another",
    ("library", "--resource", "my-book"): f"--resource {NAME_RULE.format('my-book')}",
    ("library", "--resource", "class"): "--resource is class, which is a keyword of Python; choose another",
    **{
        ("library", "--resource", name): f"--resource is {name}, which means something else in each service; "
        "choose another"
        for name in ("horizon", "request_id", "last_transaction", "library_service")
    },
    ("library", "--directory", "nowhere/library"): "cannot write nowhere/library: No such file or directory",
}


@pytest.fixture
def new_service(
    handfast: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: handfast("new", "service", *arguments)


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_cannot_be_is_refused_in_one_line(
    new_service: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert new_service(*arguments) == Result(2, "", f"handfast: new service: {REFUSED[arguments]}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_as_it_is(new_service: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    refusal = "library is there already; remove it, or name another --directory"
    assert new_service("library") == Result(2, "", f"handfast: new service: {refusal}\n")
    assert [*tmp_path.rglob("*")] == [tmp_path / "library"]


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(path: Path, text: str, encoding: str) -> int:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        return path.write_bytes(text.encode(encoding))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Failure, match="No space left on device"):
        write("library", "book", tmp_path / "library")
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


LONG = "abcdefghijklmnopqrstuvwxyzabcdef"
"""As long as a name may be, and with no underscore to break it at."""


@pytest.mark.parametrize(
    "arguments",
    [("library", "--resource", "book"), ("library",), ("ab", "--resource", "c"), (LONG, "--resource", LONG[::-1])],
    ids=" ".join,
)
def test_a_skeleton_is_in_style(new_service: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    name = arguments[0]
    assert new_service(*arguments) == Result(0, f"{name} has a service now; its README.md says how to go on.\n", "")
    for check in (
        (BIN / "ruff", "format", "--check"),
        (BIN / "ruff", "check", "--no-cache"),
        (BIN / "buf", "format", "--diff", "--exit-code", "protos"),
    ):
        done = run(*check, cwd=tmp_path / name)
        assert done.returncode == 0, done.stdout


def test_the_contract_of_a_skeleton_says_who_may_call_each_method(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    write("library", "book", folder)
    (folder / "deps").mkdir()
    (folder / "deps" / "handfast").symlink_to(ROOT / "protos" / "handfast")
    assert "buf build -o - | python -m handfast.server.chassis.security.check" in (folder / "Makefile").read_text()
    done = run(BIN / "buf", "build", "--output", "contracts.binpb", cwd=folder)
    assert done.returncode == 0, done.stdout
    image = FileDescriptorSet.FromString((folder / "contracts.binpb").read_bytes())
    assert "LibraryService" in {service.name for file in image.file for service in file.service}
    assert list(problems(image)) == []


def test_every_template_is_filled(tmp_path: Path) -> None:
    write("loyalty_points", "gift_card", tmp_path / "points")
    texts = {path: path.read_text() for path in (tmp_path / "points").rglob("*") if path.is_file()}
    assert len(texts) == 17
    assert [path for path, text in texts.items() if Template(text).get_identifiers() and path.suffix != ".mako"] == []
    assert (
        "message GiftCard {" in texts[tmp_path / "points" / "protos" / "loyalty_points" / "v1" / "loyalty_points.proto"]
    )
    assert "/handfast-data/\n" in texts[tmp_path / "points" / ".gitignore"]  # with the keys of `handfast up --secure`


def test_the_readme_shows_how_the_service_runs_where_callers_are_known_as_the_guide_does(tmp_path: Path) -> None:
    write("library", "book", tmp_path / "library")
    shown = [block.code for block in blocks("sh", tmp_path / "library" / "README.md")]
    secure = [code for code in shown if "secure" in code or "dev-" in code]
    assert len(secure) == 2
    # Those of the guide are run by tests/examples/test_participants.py.
    assert set(secure) <= {block.code for block in blocks("sh", ROOT / "docs" / "participants.md")}


def test_a_skeleton_stands_on_what_is_exported(tmp_path: Path) -> None:
    write("library", "book", tmp_path / "library")
    code = "".join(path.read_text() for path in (tmp_path / "library").rglob("*.py"))
    assert set(re.findall(r"^from (handfast\S*) import", code, re.MULTILINE)) == {
        "handfast.chassis.v1.options_pb2",
        "handfast.client",
        "handfast.server.chassis",
        "handfast.server.testing",
        "handfast.server.transactions",
        "handfast.users.v1.users_pb2",
    }
    assert "import handfast" not in code
