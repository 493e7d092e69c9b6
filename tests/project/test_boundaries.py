"""The boundaries between packages hold because a forbidden import fails `make check`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.project.commands import BIN, ROOT, run

SOURCE_ROOTS = ("generated", "clients", "servers", "examples/demo")
EXAMPLES = "examples"

SERVER = "servers/handfast/server"
FORBIDDEN = {
    "users import preferences": (f"{SERVER}/users", "handfast.server.preferences"),
    "users speak to accounts": (f"{SERVER}/users", "handfast.accounts.v1.accounts_pb2"),
    "preferences import users": (f"{SERVER}/preferences", "handfast.server.users"),
    "preferences speak to users": (f"{SERVER}/preferences", "handfast.users.v1.users_pb2_grpc"),
    "accounts import users": (f"{SERVER}/accounts", "handfast.server.users"),
    "accounts import preferences": (f"{SERVER}/accounts", "handfast.server.preferences"),
    "transactions import accounts": (f"{SERVER}/transactions", "handfast.server.accounts"),
    "transactions speak to users": (f"{SERVER}/transactions", "handfast.users.v1.users_pb2"),
    "chassis imports transactions": (f"{SERVER}/chassis", "handfast.server.transactions"),
    "chassis imports users": (f"{SERVER}/chassis", "handfast.server.users"),
    "processes import the chassis": (f"{SERVER}/process", "handfast.server.chassis.errors"),
    "processes know gRPC": (f"{SERVER}/process", "grpc"),
    "examples import what is behind the chassis": (f"{EXAMPLES}/postage", "handfast.server.chassis.errors"),
    "examples import what is behind transactions": (
        f"{EXAMPLES}/postage",
        "handfast.server.transactions.participant.store",
    ),
    "credits speak to users": (f"{EXAMPLES}/credits/credits", "handfast.users.v1.users_pb2"),
    "credits are a caller": (f"{EXAMPLES}/credits/credits", "handfast.client"),
    "examples import users": (f"{EXAMPLES}/postage", "handfast.server.users.service"),
    "clients import servers": ("clients/handfast/client", "handfast.server.chassis.errors"),
    "the demo imports servers": (f"{EXAMPLES}/demo/handfast/demo", "handfast.server.cli.ports"),
    "a server knows OpenTelemetry": (f"{SERVER}/chassis/pipeline", "opentelemetry"),
    "core knows gRPC": (f"{SERVER}/transactions/core", "grpc"),
    "core knows the clock": (f"{SERVER}/transactions/core", "time"),
    "core knows the chassis": (f"{SERVER}/transactions/core", "handfast.server.chassis.errors"),
    "core knows its shell": (f"{SERVER}/transactions/core", "handfast.server.transactions.wire"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boundaries")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for root in (*SOURCE_ROOTS, EXAMPLES):
        shutil.copytree(ROOT / root, folder / root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    # -S, and site-packages by hand, so that the editable install's .pth file does not bring in the originals.
    path = [*(str(project / root) for root in SOURCE_ROOTS), sysconfig.get_path("purelib")]
    command = (sys.executable, "-S", BIN / "lint-imports", "--no-logo", "--no-cache")
    return run(*command, cwd=project, PYTHONPATH=os.pathsep.join(path))


def test_boundaries_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def complaints(copy: Path) -> str:
    """What is said where all the imports are there that are forbidden, each in a module of its own."""
    for name, (package, forbidden) in FORBIDDEN.items():
        (copy / package / f"{planted(name)}.py").write_text(f"import {forbidden}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout
    return " ".join(done.stdout.split())  # long lines are broken


def planted(name: str) -> str:
    return "planted_" + name.replace(" ", "_")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_import_is_caught(complaints: str, name: str) -> None:
    assert f".{planted(name)} -> {FORBIDDEN[name][1]} " in complaints
