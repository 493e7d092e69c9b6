"""The example is small, runs as its README says, and has all that a server of the suite has."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from handfast.client import ServiceError, channel
from tests.cli.processes import CLEAN
from tests.eventually import eventually
from tests.examples.server import GUIDE, POSTAGE, Postage, shown, started
from tests.grpcurl.tool import Grpcurl
from tests.project.commands import ROOT, run
from tests.project.readme import blocks, shows_the_same
from tools.generate import out_of_date

CHASSIS = ROOT / "docs" / "chassis.md"
SERVICE = "postage.v1.PostageService"
DEFAULT_ADDRESS = "127.0.0.1:50061"


def test_the_service_is_less_than_40_lines() -> None:
    lines = [line.strip() for line in (POSTAGE / "service.py").read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) < 40


@pytest.mark.parametrize("file", [GUIDE, CHASSIS], ids=["README", "chassis"])
def test_links_lead_somewhere(file: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", file.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_a_consumer_in_another_folder_gets_what_is_shown(postage: Postage, tmp_path: Path) -> None:
    output = shown("call.py").output
    assert output is not None
    script = tmp_path / "call.py"
    script.write_text((POSTAGE / "call.py").read_text())
    command: list[str | Path] = [sys.executable, "-W", "error", script, postage.address]
    environment = {**CLEAN, "PYTHONPATH": str(POSTAGE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert shows_the_same(output, done.stdout), done.stdout


def test_the_calls_of_grpcurl_that_are_shown(grpcurl: Grpcurl, postage: Postage) -> None:
    calls = [block for block in blocks("sh", GUIDE) if block.code.startswith("grpcurl")]
    assert len(calls) == 2
    for block in calls:
        code = block.code.replace(DEFAULT_ADDRESS, postage.address)
        assert code != block.code
        done = run(grpcurl.path, *shlex.split(code.replace("\\\n", ""))[1:])
        assert block.output is not None
        assert shows_the_same(block.output, done.stdout), done.stdout
        assert (done.returncode != 0) is block.output.startswith("ERROR:")


def test_reflection_and_health_know_the_service(postage: Postage) -> None:
    with grpc.insecure_channel(postage.address) as to_postage:
        assert SERVICE in ProtoReflectionDescriptorDatabase(to_postage).get_services()
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        health: Any = health_pb2_grpc.HealthStub(to_postage)
        answer = health.Check(request, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_call_is_logged_and_counted_with_its_code(postage: Postage) -> None:
    counted = (
        f'grpc_server_handled_total{{grpc_code="NotFound",grpc_method="QuotePostage",grpc_service="{SERVICE}",'
        'grpc_type="unary"}'
    )
    before = _metrics(postage)[counted]
    with channel(postage.address) as to_postage:
        call: Any = to_postage.unary_unary(f"/{SERVICE}/QuotePostage")
        with pytest.raises(ServiceError) as caught:
            call(b"\n\x02AQ\x10\x01", timeout=5)  # country AQ, 1 gram
    assert caught.value.reason == "NO_TARIFF"
    request_id = caught.value.request_id
    assert eventually(lambda: any(line["request_id"] == request_id for line in postage.lines("call")))
    (line,) = (line for line in postage.lines("call") if line["request_id"] == request_id)
    named = (line["service"], line["grpc.service"], line["grpc.method"], line["grpc.code"])
    assert named == ("postage", SERVICE, "QuotePostage", "NotFound")
    assert _metrics(postage)[counted] == before + 1


def _metrics(postage: Postage) -> dict[str, float]:
    with urllib.request.urlopen(postage.metrics, timeout=5) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_it_stops_on_a_signal(tmp_path: Path) -> None:
    with started(tmp_path / "log") as postage:
        assert postage.stop() == 0
    assert "Traceback" not in postage.log.read_text()
    assert len(postage.lines("stopped")) == 1


def test_its_port_is_told_where_it_is_taken(postage: Postage) -> None:
    done = run(sys.executable, POSTAGE / "service.py", "--listen", postage.address, "--metrics-listen", "127.0.0.1:0")
    logged, told = done.stdout.splitlines()
    assert json.loads(logged)["event"] == "starting"
    assert (done.returncode, told) == (2, f"postage: cannot listen on {postage.address}: Address already in use")


def test_the_command_that_is_shown_generates_its_stubs(tmp_path: Path) -> None:
    generator = ROOT / ".venv-generate" / "bin"
    if not (generator.parent / ".installed").exists():
        pytest.skip("`make generate` installs the generator")
    (tmp_path / "protos").symlink_to(POSTAGE / "protos")
    path = f"{generator}{os.pathsep}{os.environ['PATH']}"
    contracts = run(sys.executable, "-m", "handfast.client.protos").stdout.strip()
    command = shown("grpc_tools.protoc").code.replace("$(python -m handfast.client.protos)", contracts)
    done = run("sh", "-e", "-c", command, cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stdout
    assert out_of_date(POSTAGE / "postage", tmp_path / "postage") == {}


def test_the_guide_to_the_chassis_shows_the_service_and_how_to_test_it(tmp_path: Path) -> None:
    service, *further, testing = (block.code for block in blocks("python", CHASSIS))
    assert service == (POSTAGE / "service.py").read_text()
    for code in further:
        exec(compile(code, CHASSIS, "exec", dont_inherit=True), {"__name__": __name__})
    (tmp_path / "test_postage.py").write_text(testing)
    pytest_alone = (sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", tmp_path)
    done = run(*pytest_alone, cwd=tmp_path, PYTHONPATH=str(POSTAGE))
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_guide_imports_only_what_the_chassis_exports() -> None:
    from handfast.server import chassis

    imported = {
        name.name
        for block in blocks("python", CHASSIS)
        for node in ast.walk(ast.parse(block.code))
        if isinstance(node, ast.ImportFrom) and node.module == "handfast.server.chassis"
        for name in node.names
    }
    assert imported >= {"Server", "Service", "serve"}
    assert imported <= set(chassis.__all__)
