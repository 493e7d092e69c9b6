"""What consumers have: the wheel, built once, and an environment at either end of the versions they may have."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project.commands import BIN, PIP, ROOT, run, succeed

PYRIGHT = ROOT / ".tools" / "pyright" / "node_modules" / ".bin" / "pyright"


@pytest.fixture(scope="session")
def database_urls() -> dict[str, str]:
    """SQLite: what is tested here does not depend on the database."""
    return {}


@dataclass(frozen=True)
class Consumer:
    """A virtual environment into which nothing but the wheel has been installed."""

    folder: Path
    constraints: Path
    wheel: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, extras: str = "") -> None:
        pip = (*PIP, "--python", self.python, "install", "--constraint", self.constraints)
        succeed((*pip, f"handfast{extras} @ {self.wheel.as_uri()}"))

    def installed(self) -> set[str]:
        listing = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
        names = succeed((self.python, "-c", listing), cwd=self.folder).split()
        return {name.lower().replace("_", "-") for name in names}

    def typecheck(self, checker: str, folder: Path) -> tuple[int, str]:
        """What strict `mypy` or `pyright` says of the code in `folder`, with this environment's stubs and no others."""
        return self._mypy(folder) if checker == "mypy" else self._pyright(folder)

    def _mypy(self, folder: Path) -> tuple[int, str]:
        # Elsewhere, so that neither the project's settings nor its sources are found.
        mypy = (BIN / "mypy", "--strict", "--config-file=", "--python-executable", self.python)
        done = run(*mypy, "--cache-dir", self.folder / "mypy", folder, cwd=self.folder)
        return done.returncode, done.stdout

    def _pyright(self, folder: Path) -> tuple[int, str]:
        if not PYRIGHT.exists():
            missing = "`make pyright` installs pyright where npm is at hand"
            if os.environ.get("CI") and shutil.which("npm"):
                pytest.fail(missing)
            pytest.skip(missing)
        (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
        done = run(PYRIGHT, "--pythonpath", self.python, "--project", folder, cwd=folder)
        return done.returncode, done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built out of the sdist, as that which is published."""
    folder = tmp_path_factory.mktemp("wheel")
    succeed((BIN / "hatchling", "build", "--target", "sdist", "--directory", folder))
    (sdist,) = folder.glob("*.tar.gz")
    succeed((*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sdist))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session", params=["constraints.txt", "constraints-floor.txt"])
def consumer(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    constraints = ROOT / str(request.param)
    consumer = Consumer(tmp_path_factory.mktemp(constraints.stem) / "venv", constraints, wheel)
    succeed((BIN / "python", "-m", "venv", "--without-pip", consumer.folder))
    consumer.install()
    return consumer


@pytest.fixture(scope="session")
def traced_consumer(consumer: Consumer) -> Consumer:
    consumer.install("[otel]")
    return consumer


@pytest.fixture(scope="session")
def typed_consumer(consumer: Consumer) -> Consumer:
    consumer.install("[types]")
    return consumer
