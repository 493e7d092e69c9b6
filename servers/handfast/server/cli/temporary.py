"""A suite that lasts as long as somebody needs it: `handfast up` in a temporary folder, on ports that are free."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from handfast.server.cli.dev.folder import CREDENTIALS, DevCredentials
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import on_this_machine
from handfast.server.cli.supervisor import HANDFAST
from handfast.server.process.command import Failure
from handfast.server.process.supervision import SUPERVISED


def environment_of_its_own() -> dict[str, str]:
    """For a process of a temporary suite, which ends with its standard input. What the environment says about the
    user's own suite, its databases above all, is not for this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HANDFAST_")}
    return environment | {SUPERVISED: "1"}


@contextlib.contextmanager
def temporary_suite(
    first_port: int | None = None,
    participants: Mapping[str, str] | None = None,
    *,
    data_dir: Path | None = None,
    secure: bool = False,
) -> Iterator[Mapping[str, str]]:
    """Gives the addresses of its servers, HOST:PORT by name. `participants` are the addresses of others that take part
    in its transactions. Without `data_dir` its data is in a temporary folder. With `secure` it runs as by
    `handfast up --secure`. Raises Failure where it does not start.
    """
    first_port = first_port or free_first_port()
    more = [f"--participant={name}={address}" for name, address in (participants or {}).items()]
    more += ["--secure"] if secure else []
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="handfast-")))
        folder.mkdir(exist_ok=True)
        logs = folder / "logs"
        with logs.open("w") as stderr:
            process = subprocess.Popen(
                [*HANDFAST, "up", "--data-dir", folder, "--first-port", str(first_port), *more],
                env=environment_of_its_own(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        assert process.stdin
        assert process.stdout
        try:
            if "ready\n" not in process.stdout:
                raise Failure(f"the suite did not start:\n{logs.read_text()}")
            yield on_this_machine(first_port)
        finally:
            process.stdin.close()  # which asks it to stop; its folder goes when it has
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def secure_suite() -> Iterator[Mapping[str, str]]:
    """The addresses of one that takes TLS and tokens. The environment of this process has the credentials of a client
    that may do all."""
    with tempfile.TemporaryDirectory(prefix="handfast-") as folder:
        credentials = DevCredentials(Path(folder, CREDENTIALS))
        with temporary_suite(data_dir=Path(folder), secure=True) as addresses:
            os.environ.update(credentials.of_client())
            yield addresses
