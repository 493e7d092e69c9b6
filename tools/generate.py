"""Generates the stubs in `generated/` from the contracts in `protos/`, and those of the examples beside them.

    python tools/generate.py            brings the stubs up to date
    python tools/generate.py --check    changes nothing; lists what is out of date and exits with 1

It runs in an environment of its own, .venv-generate, which `make generate` creates.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "generated"
EXAMPLES = (ROOT / "examples" / "postage" / "postage" / "v1", ROOT / "examples" / "credits" / "credits" / "v1")
"""The folders of their stubs. The contract that gives these is in `protos/`, beside the package."""


def run(*command: str | Path) -> None:
    # buf.gen.yaml names `python` and the plugins without a path: they are this environment's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)


def generate(scratch: Path) -> Path:
    """Generates everything below `scratch` and returns the folder that stands for `generated/`."""
    run("buf", "generate", "--output", scratch)
    output = scratch / GENERATED.name

    image = scratch / "contracts.binpb"
    run("buf", "build", "--output", image)
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    # buf cannot run grpc_python, which is no plugin but a part of grpcio-tools.
    with_service = [file.name for file in files if file.service]
    grpc_python = ["python", "-m", "grpc_tools.protoc", f"--descriptor_set_in={image}", f"--grpc_python_out={output}"]
    run(*grpc_python, *with_service)

    for stub in output.rglob("*_pb2_grpc.pyi"):
        if not stub.with_suffix(".py").exists():  # typed, but for a file that defines no service
            stub.unlink()
    for package in {module.parent for module in output.rglob("*_pb2.py")}:
        (package / "py.typed").touch()
    return output


def generate_example(scratch: Path, stubs: Path) -> Path:
    """The same for an example's contract, by the one command that its README shows. Returns what stands for `stubs`."""
    example = stubs.parent.parent
    output = scratch / example.name
    output.mkdir()
    protos = example / "protos"
    paths = (f"--proto_path={protos}", f"--proto_path={ROOT / 'protos'}")
    python = (f"--python_out={output}", f"--grpc_python_out={output}")
    types = (f"--mypy_out=quiet:{output}", f"--mypy_grpc_out=quiet:{output}")
    contracts = sorted(protos.rglob("*.proto"))
    run("python", "-m", "grpc_tools.protoc", *paths, *python, *types, *contracts)
    return output / stubs.relative_to(example)


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def out_of_date(generated: Path, fresh: Path) -> dict[Path, str]:
    """What differs between the two folders: relative path to `missing`, `stale` or `different`."""
    before, after = contents(generated), contents(fresh)
    return (
        dict.fromkeys(after.keys() - before.keys(), "missing")
        | dict.fromkeys(before.keys() - after.keys(), "stale")
        | {path: "different" for path in before.keys() & after.keys() if before[path] != after[path]}
    )


def update(generated: Path, fresh: Path, *, check: bool) -> bool:
    """Lists what differs between the two folders, and makes `generated` like `fresh`, unless asked only to check.
    Returns whether anything differed."""
    differences = out_of_date(generated, fresh)
    for path, state in sorted(differences.items()):
        target = generated / path
        print(f"{target.relative_to(ROOT)}: {state}")
        if check:
            continue
        if state == "stale":
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, target)
    return bool(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the stubs of the contracts, and of the examples.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 where something is out of date"
    )
    check: bool = parser.parse_args().check

    with tempfile.TemporaryDirectory() as scratch:
        generated = {GENERATED: generate(Path(scratch))}
        generated |= {stubs: generate_example(Path(scratch), stubs) for stubs in EXAMPLES}
        differences = [update(folder, fresh, check=check) for folder, fresh in generated.items()]

    if check and any(differences):
        print("stubs are not what the contracts give: run `make generate` and commit what it changes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
