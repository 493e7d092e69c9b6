"""What docs/clients.md shows for other languages is generated, built and run as it is written, against real servers,
and prints what is shown."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.rpc
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_status import rpc_status

from handfast.server.chassis.operations.health import WATCH
from handfast.server.suite import FIRST_PORT
from handfast.users.v1 import users_pb2
from tests.project.commands import BIN, ROOT
from tests.project.readme import CLIENTS, Block, blocks, dangling_links, quoted, shows_the_same, table

HEADER = ("language", "option in the contracts", "stubs of `handfast.users.v1` are in")
GOOGLE_RPC = Path(google.rpc.__path__[0])

pytestmark = pytest.mark.timeout(600)  # the first build of all that a client stands on takes its time


@dataclass(frozen=True)
class Language:
    """One that the page has a part on: `needs` is the command that it cannot do without."""

    name: str
    needs: str
    target: str
    program: str

    @property
    def installed(self) -> Path:
        """The folder in which its packages have been installed, as the page says."""
        return ROOT / ".tools" / "clients" / self.name.lower()

    def shown(self, block_language: str) -> list[Block]:
        return blocks(block_language, CLIENTS, below=self.name)


GO = Language("Go", needs="go", target="go-client", program="main.go")
TYPESCRIPT = Language("TypeScript", needs="npm", target="typescript-client", program="main.ts")


@dataclass(frozen=True)
class Program:
    """The client of one language, in a folder of its own."""

    language: Language
    folder: Path

    def sh(self, commands: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(self.folder / "bin"), str(BIN), os.environ["PATH"]))
        return subprocess.run(
            ["sh", "-e", "-c", commands],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "GOPROXY": "off"},  # all that it needs is here
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def run(self, addresses: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Generates, builds and runs what is shown. Only the addresses differ."""
        (code,) = self.language.shown(Path(self.language.program).suffix.removeprefix("."))
        text = code.code
        for offset, address in enumerate(addresses.values()):
            text = text.replace(f"127.0.0.1:{FIRST_PORT + offset}", address)
        assert text != code.code
        (self.folder / self.language.program).write_text(text)
        return self.sh(self.language.shown("sh")[1].code)


@pytest.fixture(params=[GO, TYPESCRIPT], ids=lambda language: language.name)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    language: Language = request.param
    if not shutil.which(language.needs):
        pytest.skip(f"{language.needs} is not installed")
    return prepared(language, tmp_path)


def prepared(language: Language, folder: Path) -> Program:
    """A folder in which what the page has installed is there, and `buf.gen.yaml`."""
    marker = language.installed / "installed"
    if not marker.exists() or marker.read_text() != language.shown("sh")[0].code:
        missing = f"`make {language.target}` installs what {language.name} needs, as docs/clients.md has it now"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    for each in language.installed.iterdir():
        if each.is_dir():
            (folder / each.name).symlink_to(each)
        else:
            shutil.copy(each, folder)
    (config,) = language.shown("yaml")
    # A checkout beside the folder, and a module that buf would fetch: the same files, as a package for Python has them.
    text = config.code.replace("directory: ../handfast", f"directory: {ROOT}")
    text = text.replace("module: buf.build/googleapis/googleapis", "directory: googleapis")
    text = text.replace("[google/rpc/", "[googleapis/google/rpc/").replace(", google/rpc/", ", googleapis/google/rpc/")
    (folder / "buf.gen.yaml").write_text(text)
    shutil.copytree(
        GOOGLE_RPC, folder / "googleapis" / "google" / "rpc", ignore=lambda _, names: [n for n in names if ".py" in n]
    )
    return Program(language, folder)


def test_the_client_that_is_shown_prints_what_is_shown(program: Program, addresses: dict[str, str]) -> None:
    done = program.run(addresses)
    shown = program.language.shown("sh")[1].output
    assert done.returncode == 0, done.stdout
    assert shown is not None
    assert shows_the_same(shown, done.stdout), done.stdout


@dataclass(frozen=True)
class Refusing:
    """A server that refuses every call but that for its health, and has noted them all in `called`."""

    address: str
    called: list[str]


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    """With every detail that the suite sends."""
    called: list[str] = []
    status = status_pb2.Status(code=code_pb2.ABORTED, message="Somebody else was faster.")
    for detail in (
        error_details_pb2.ErrorInfo(domain="handfast.users", reason="PENDING_CHANGE", metadata={"user_id": "ada"}),
        error_details_pb2.BadRequest(
            field_violations=[{"field": "user.email", "description": "is required", "reason": "REQUIRED"}]
        ),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        error_details_pb2.RequestInfo(request_id="named"),
    ):
        status.details.add().Pack(detail)

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort_with_status(rpc_status.to_status(status))
            )

    class Noting(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
            called.append(handler_call_details.method)
            return continuation(handler_call_details)

    server = grpc.server(
        futures.ThreadPoolExecutor(8), handlers=[Handler()], interceptors=[Noting()], options=[("grpc.so_reuseport", 0)]
    )
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(experimental_non_blocking=False), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Refusing(f"127.0.0.1:{port}", called)
    server.stop(0).wait()


def test_the_client_that_is_shown_decodes_every_detail_of_an_error(program: Program, refusing: Refusing) -> None:
    done = program.run(dict.fromkeys(("users", "preferences", "accounts"), refusing.address))
    assert done.returncode == 1, done.stdout
    said = done.stdout.replace("map[user_id:ada]", "{ user_id: 'ada' }").splitlines()
    assert said[0] in ("Aborted", "ABORTED")
    assert said[1:4] == [
        "Somebody else was faster.",
        "ErrorInfo handfast.users PENDING_CHANGE { user_id: 'ada' }",
        "BadRequest user.email is required REQUIRED",
    ]
    assert said[4] in ("RetryInfo 1.5s", "RetryInfo 1.5 s")
    assert said[5] == "RequestInfo named"
    assert (WATCH in refusing.called) is (program.language is GO)  # as docs/connections.md says of both


def test_the_stubs_for_go_are_where_the_contracts_say_without_any_setting(tmp_path: Path) -> None:
    if not shutil.which(GO.needs):
        pytest.skip("go is not installed")
    program = prepared(GO, tmp_path)
    module = users_pb2.DESCRIPTOR.GetOptions().go_package.partition("/handfast/users/v1;")[0]
    (tmp_path / "buf.gen.yaml").write_text(
        "version: v2\nplugins:\n"
        + "".join(f"  - {{local: {plugin}, out: .}}\n" for plugin in ("protoc-gen-go", "protoc-gen-go-grpc"))
        + f"inputs:\n  - directory: {ROOT}\n"
    )
    done = program.sh(
        f"buf generate; cp go.sum {module}; sed 's|^module .*|module {module}|' go.mod > {module}/go.mod;"
        f"cd {module}; go build ./...; go list ./..."
    )
    assert done.returncode == 0, done.stdout
    assert f"{module}/handfast/users/v1\n" in done.stdout


def test_stubs_are_where_the_contracts_say() -> None:
    where = {language: quoted(cell) for language, _, cell in table(CLIENTS, *HEADER)}
    options = users_pb2.DESCRIPTOR.GetOptions()
    assert where == {
        "Go": tuple(options.go_package.split(";")),
        "Java, Kotlin": (options.java_package,),
        "C#": (options.csharp_namespace,),
    }


def test_links_lead_somewhere() -> None:
    assert dangling_links(CLIENTS) == []
