"""A released contract cannot be broken unseen, and stubs that do not match their contract neither."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from handfast.server.chassis.security.check import problems
from tests.project.commands import BIN, ROOT, run, succeed
from tools.generate import out_of_date

USERS = Path("protos/handfast/users/v1/users.proto")
EMAIL = "string email = "


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A copy of the contracts, released as they are now: a folder with buf.yaml, protos/ and its image."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    succeed((BIN / "buf", "build", "--exclude-source-info", "--output", "protos/released.binpb"), cwd=tmp_path)
    return tmp_path


def test_every_contract_says_where_its_stubs_are_in_other_languages(released: Path) -> None:
    image = FileDescriptorSet.FromString((released / "protos" / "released.binpb").read_bytes())
    contracts = [file for file in image.file if file.name.startswith("handfast/")]
    assert len(contracts) == len(list((ROOT / "protos").rglob("*.proto")))
    for file in contracts:
        service, options = file.package.split(".")[1], file.options
        assert options.go_package == f"github.com/handfast/handfast/gen/go/handfast/{service}/v1;{service}v1", file.name
        assert options.java_package == f"com.handfast.{service}.v1", file.name
        assert options.java_multiple_files, file.name
        assert options.csharp_namespace == f"Handfast.{service.capitalize()}.V1", file.name
    outer_classes = [(file.package, file.options.java_outer_classname) for file in contracts]
    assert all(name.endswith("Proto") for _, name in outer_classes)
    assert len(set(outer_classes)) == len(outer_classes)


def check_contracts(project: Path) -> subprocess.CompletedProcess[str]:
    return run("make", "--no-print-directory", "check-contracts", f"CONTRACTS={project}")


def test_a_method_whose_contract_does_not_say_who_may_call_it_is_named(released: Path) -> None:
    done = check_contracts(released)
    assert (done.returncode, done.stdout) == (0, "")
    before, get_user, after = (released / USERS).read_text().partition("rpc GetUser(")
    declared = re.compile(r"    option \(handfast\.chassis\.v1\.permission\) = \{[^}]*\};\n")
    (released / USERS).write_text(before + get_user + declared.sub("", after, count=1))
    done = check_contracts(released)
    assert done.returncode != 0
    assert "handfast.users.v1.UserService.GetUser declares no permission" in done.stdout


@pytest.mark.parametrize(
    ("declared", "wrong", "said"),
    [
        ('self: "user_id"', 'self: "id"', "self: GetUserRequest has no field 'id'"),
        ('self: "user_id"', 'self: "user_id.value"', "self: GetUserRequest has no field 'user_id.value'"),
        ('resource: "user_id"', 'resource: "id"', "resource: neither the request nor the reply has 'id'"),
        ('resource: "user_id"', 'resource: "user"', "resource: 'user' is no id"),
        ('resource: "user_id"', 'resource: "user.email"', "resource: 'user.email' is personal data"),
        ('scopes: "users.read"', 'scopes: "users read"', "has the scope 'users read', which no token can have"),
        ('scopes: "users.read"', "", "names no scope"),
    ],
)
def test_a_permission_that_cannot_be_is_named(released: Path, declared: str, wrong: str, said: str) -> None:
    text = (released / USERS).read_text()
    before, get_user, after = text.partition("rpc GetUser(")
    assert declared in after
    (released / USERS).write_text(before + get_user + after.replace(declared, wrong, 1))
    succeed((BIN / "buf", "build", "--output", "changed.binpb"), cwd=released)
    (problem,) = problems(FileDescriptorSet.FromString((released / "changed.binpb").read_bytes()))
    assert said in problem


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("library.read", []),
        ("users.read", []),
        ("self", []),
        ("branches.write", ["has the scope 'branches.write', which is the suite's"]),
        ("transactions.operate", ["has the scope 'transactions.operate', which is the suite's"]),
        ("callers.forward", ["has the scope 'callers.forward', which is the suite's"]),
        ("admin", ["has the scope 'admin', which is of no service; such as 'orders.read' is right"]),
    ],
)
def test_a_service_beside_the_suite_that_asks_for_scopes_which_are_not_its_own_is_named(
    scope: str, said: list[str], tmp_path: Path
) -> None:
    contract = """syntax = "proto3";
    package library.v1;
    import "handfast/chassis/v1/options.proto";
    message Book { string book_id = 1; }
    service LibraryService {
      rpc GetBook(Book) returns (Book) { option (handfast.chassis.v1.permission) = {scopes: "SCOPE"}; }
    }"""
    shutil.copytree(ROOT / "protos" / "handfast" / "chassis", tmp_path / "handfast" / "chassis")
    (tmp_path / "library.proto").write_text(contract.replace("SCOPE", scope))
    succeed((BIN / "buf", "build", "--output", "image.binpb"), cwd=tmp_path)
    found = [*problems(FileDescriptorSet.FromString((tmp_path / "image.binpb").read_bytes()))]
    begins = "library.proto: library.v1.LibraryService.GetBook: its permission "
    assert found == [f"{begins}{problem}" for problem in said]


def check_breaking(project: Path) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "tools" / "check-breaking.sh", project)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_unchanged_contracts_pass(released: Path) -> None:
    done = check_breaking(released)
    assert (done.returncode, done.stdout) == (0, "")


def test_added_field_passes(released: Path) -> None:
    edit(released / USERS, "message GetUserRequest {", "message GetUserRequest {\n  string added = 1000;\n")
    done = check_breaking(released)
    assert done.returncode == 0, done.stdout


def test_changed_type_is_caught(released: Path) -> None:
    edit(released / USERS, EMAIL, EMAIL.replace("string", "bytes"))
    done = check_breaking(released)
    assert done.returncode != 0
    assert '"email"' in done.stdout
    assert "changed type" in done.stdout


def test_deleted_field_is_caught(released: Path) -> None:
    text = (released / USERS).read_text()
    line = next(line for line in text.splitlines(keepends=True) if EMAIL in line)
    edit(released / USERS, line, "")
    done = check_breaking(released)
    assert done.returncode != 0
    assert '"email"' in done.stdout
    assert "deleted" in done.stdout


def test_before_the_first_release_nothing_can_break(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "check-breaking.sh", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('version = "0.1.0.dev0"\n')
    done = run("tools/check-breaking.sh", cwd=tmp_path)
    assert done.returncode == 0
    assert "no contract is released yet" in done.stdout


def test_a_release_freezes_its_contracts_and_the_next_one_may_not_break_them(tmp_path: Path) -> None:
    for file in ("Makefile", "buf.yaml", "tools/check-breaking.sh"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    (tmp_path / ".venv").symlink_to(BIN.parent)
    image = tmp_path / "protos" / "released.binpb"
    image.unlink(missing_ok=True)
    others = [f"--assume-old={each}" for each in (".venv/.installed", "check-contracts", "check-generated")]

    (tmp_path / "pyproject.toml").write_text('version = "0.1.0"\n')
    done = run("make", "check-breaking", *others, cwd=tmp_path)
    assert "is missing, though this is a release; `make freeze` writes it" in done.stdout
    succeed(("make", "freeze", *others), cwd=tmp_path)
    succeed(("make", "check-breaking", *others), cwd=tmp_path)
    frozen = image.read_bytes()

    (tmp_path / "pyproject.toml").write_text('version = "0.2.0"\n')
    edit(tmp_path / USERS, EMAIL, EMAIL.replace("string", "bytes"))
    done = run("make", "freeze", *others, cwd=tmp_path)
    assert done.returncode != 0
    assert "changed type" in done.stdout
    assert image.read_bytes() == frozen


def test_stubs_out_of_date_are_listed(tmp_path: Path) -> None:
    committed, fresh = tmp_path / "committed", tmp_path / "fresh"
    for folder, files in {
        committed: {"same": "1", "changed": "1", "left": "1", "__pycache__/same.pyc": "1"},
        fresh: {"same": "1", "changed": "2", "added": "1"},
    }.items():
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    assert out_of_date(committed, fresh) == {
        Path("changed"): "different",
        Path("left"): "stale",
        Path("added"): "missing",
    }
