"""A consumer gets the client and no server; strict mypy sees through it; and both ends of the versions work."""

from __future__ import annotations

import re
import shutil
import textwrap
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from tests.project.commands import BIN, ROOT, run, succeed
from tests.project.conftest import Consumer

CLIENT_AND_WHAT_IT_NEEDS = {
    "googleapis-common-protos",
    "grpcio",
    "grpcio-status",
    "handfast",
    "protobuf",
    "typing-extensions",
}

pytestmark = pytest.mark.timeout(300)


def test_client_brings_no_server(consumer: Consumer) -> None:
    # Extras are there already, where a test of these ran first.
    extras = {"types-grpcio", "types-protobuf", "importlib-metadata", "zipp"}
    installed = {name for name in consumer.installed() - extras if not name.startswith("opentelemetry")}
    assert installed <= CLIENT_AND_WHAT_IT_NEEDS


def test_client_and_stubs_import(consumer: Consumer) -> None:
    stubs = [
        ".".join(path.relative_to(ROOT / "generated").with_suffix("").parts)
        for path in sorted((ROOT / "generated").rglob("*_pb2*.py"))
    ]
    imports = ", ".join(["handfast.client", "handfast.client.aio", *stubs])
    succeed((consumer.python, "-W", "error", "-c", f"import {imports}"), cwd=consumer.folder)


NOT_INSTALLED = "the servers are not installed, {} is missing; install them with: pip install 'handfast[server]'\n"


@pytest.mark.parametrize("command", ["--help", "up", "demo", "transactions list"])
def test_the_command_says_in_one_line_what_to_install(consumer: Consumer, command: str) -> None:
    done = run(consumer.folder / "bin" / "handfast", *command.split(), cwd=consumer.folder)
    assert (done.returncode, done.stdout) == (2, f"handfast: {NOT_INSTALLED.format('click')}")


def test_the_command_says_its_version_where_the_client_alone_is_installed(consumer: Consumer) -> None:
    done = run(consumer.folder / "bin" / "handfast", "--version", cwd=consumer.folder)
    assert (done.returncode, done.stdout) == (0, f"handfast {version('handfast')}\n")


@pytest.mark.parametrize(
    ("command", "who"),
    [
        ("up", "handfast: up"),
        ("demo", "handfast"),
        ("serve users --database-url sqlite:////nowhere", "handfast"),
    ],
)
def test_it_says_so_where_only_click_is_installed(consumer: Consumer, tmp_path: Path, command: str, who: str) -> None:
    (tmp_path / "click").symlink_to(Path(click.__file__).parent)
    program = consumer.folder / "bin" / "handfast"
    done = run(program, *command.split(), cwd=consumer.folder, PYTHONPATH=str(tmp_path))
    message = re.escape(f"{who}: {NOT_INSTALLED}").replace(re.escape("{}"), r"\w+")  # whichever is imported first
    assert done.returncode == 2
    assert re.fullmatch(message, done.stdout)


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_consumer_passes_strict_type_checkers(typed_consumer: Consumer, tmp_path: Path, checker: str) -> None:
    code = shutil.copytree(ROOT / "tests" / "client" / "consumer", tmp_path / "consumer")
    assert list(code.rglob("*.py"))
    status, output = typed_consumer.typecheck(checker, code)
    assert status == 0, output


TRACED = """
import asyncio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from handfast.client import ServiceError, aio, connect
from handfast.users.v1.users_pb2 import GetUserRequest

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
nowhere = ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
with connect(*nowhere, tracing=True, timeout=0.2) as suite:
    try:
        suite.users.GetUser(GetUserRequest(user_id="ada"))
    except ServiceError:
        pass

async def call():
    async with aio.connect(*nowhere, tracing=True, timeout=0.2) as suite:
        try:
            await suite.users.GetUser(GetUserRequest(user_id="ada"))
        except ServiceError:
            pass

asyncio.run(call())
print(*(span.name for span in exporter.get_finished_spans()), sep="\\n")
"""


def test_calls_are_traced_with_either_version_of_opentelemetry(traced_consumer: Consumer) -> None:
    printed = succeed((traced_consumer.python, "-c", TRACED), cwd=traced_consumer.folder)
    assert printed.split() == ["handfast.users.v1.UserService/GetUser"] * 2


CONTRACT = """
syntax = "proto3";
package own.v1;
import "handfast/chassis/v1/options.proto";
service OwnService {
  rpc Change(ChangeRequest) returns (ChangeResponse) {
    option (handfast.chassis.v1.stageable) = true;
  }
}
message ChangeRequest {}
message ChangeResponse {}
"""
IS_STAGEABLE = """
from handfast.chassis.v1.options_pb2 import stageable
from own_pb2 import DESCRIPTOR
print(DESCRIPTOR.services_by_name["OwnService"].methods_by_name["Change"].GetOptions().Extensions[stageable])
"""


@pytest.mark.parametrize("editable", [False, True], ids=["from the wheel", "from an editable install"])
def test_a_contract_of_ones_own_imports_what_is_installed(consumer: Consumer, tmp_path: Path, editable: bool) -> None:
    generator = ROOT / ".venv-generate" / "bin" / "python"
    if not generator.exists():
        pytest.skip("`make generate` installs the generator")
    (tmp_path / "own.proto").write_text(CONTRACT)
    python = BIN / "python" if editable else consumer.python
    folder = succeed((python, "-m", "handfast.client.protos"), cwd=tmp_path).strip()
    assert Path(folder).is_relative_to(ROOT / "protos" if editable else consumer.folder)
    succeed((generator, "-m", "grpc_tools.protoc", "-I.", f"-I{folder}", "--python_out=.", "own.proto"), cwd=tmp_path)
    assert succeed((python, "-c", IS_STAGEABLE), cwd=tmp_path) == "True\n"


MISTAKES = {
    "a request's field": ("suite.users.GetUser(GetUserRequest(user_id=1))", "arg-type", "reportArgumentType"),
    "a method": ("suite.users.GetUsr(GetUserRequest())", "attr-defined", "reportAttributeAccessIssue"),
    "a request": ("suite.preferences.GetPreferences(GetUserRequest())", "arg-type", "reportArgumentType"),
    "a reply's field": (
        "suite.users.GetUser(GetUserRequest()).usr",
        "attr-defined",
        "reportAttributeAccessIssue",
    ),
    "a request in a transaction": (
        "suite.transact(lambda tx: tx.preferences.GetPreferences(GetUserRequest()))",
        "arg-type",
        "reportArgumentType",
    ),
    "TLS": ('connect(tls="ca.pem")', "arg-type", "reportArgumentType"),
    "TLS for asyncio": ('aio.connect(tls="ca.pem")', "arg-type", "reportArgumentType"),
    "a token": ('connect(token=b"a-token")', "arg-type", "reportArgumentType"),
    "a token for asyncio": ('aio.channel("localhost:1", token=b"a-token")', "arg-type", "reportArgumentType"),
    "what a transaction gives": ("suite.transact(lambda tx: tx.id).user", "attr-defined", "reportAttributeAccessIssue"),
}


def test_strict_type_checkers_see_each_mistake(typed_consumer: Consumer, tmp_path: Path) -> None:
    for what, (call, _, _) in MISTAKES.items():
        mistaken = f"""
            from handfast.client import aio, connect
            from handfast.users.v1.users_pb2 import GetUserRequest

            with connect() as suite:
                {call}
        """
        (tmp_path / file_of(what)).write_text(textwrap.dedent(mistaken))
    status, output = typed_consumer.typecheck("mypy", tmp_path)
    assert status == 1
    errors = re.findall(r"(\w+\.py):.*\[(\S+)\]$", output, re.MULTILINE)
    assert sorted(errors) == sorted((file_of(what), of_mypy) for what, (_, of_mypy, _) in MISTAKES.items()), output
    assert f"Found {len(MISTAKES)} errors " in output
    status, output = typed_consumer.typecheck("pyright", tmp_path)
    assert status == 1
    found = set(re.findall(r"(\w+\.py):[\d:]+ - error: .*?\((report\w+)\)", output, re.DOTALL))
    assert {(file_of(what), of_pyright) for what, (_, _, of_pyright) in MISTAKES.items()} <= found, output


def file_of(mistake: str) -> str:
    return re.sub(r"\W", "_", mistake) + ".py"


NOT_PRINTED = """
import re
import sys, types
import handfast.server
chassis = types.ModuleType("handfast.server.chassis")  # without what it imports, which is not installed here
chassis.__path__ = [f"{handfast.server.__path__[0]}/chassis"]
sys.modules[chassis.__name__] = chassis
from handfast.server.chassis.logs.redaction import PersonalData, redacted
from handfast.users.v1.users_pb2 import BatchGetUsersResponse, User

user = User(user_id="u1", email="ada@example.com", display_name="Zo\\u00eb", labels={"shoe": "36 wide"})
found = BatchGetUsersResponse(users=[user])
print(redacted(found), PersonalData([found]).removed_from(f"{found}"))
"""


def test_personal_data_is_not_printed_with_either_version_of_protobuf(consumer: Consumer) -> None:
    """What protobuf itself prints of marked fields may change. The module is the servers', but needs none of them."""
    printed = succeed((consumer.python, "-W", "error", "-c", NOT_PRINTED), cwd=consumer.folder)
    assert [secret for secret in ("ada", "Zo", "shoe", "36") if secret in printed] == []
    assert printed.count("u1") == 2
    assert printed.count("[REDACTED]") >= 6
