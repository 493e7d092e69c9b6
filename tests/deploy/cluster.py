"""Runs the suite as the chart has it in production, by the names that it has in a cluster, and calls it.

    tests/failover/isolate.sh python -m tests.deploy.cluster FOLDER

The network and the mounts have to be its own: names are those of /etc/hosts, which it replaces. Of what the manifests
say, only what cannot be had here is another: databases are SQLite, and the keys of tokens are in a file.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cryptography.x509 import DNSName

from handfast.server.cli.dev.folder import make
from handfast.server.cli.settings import SERVERS
from handfast.server.cli.supervisor import HANDFAST
from tests.cli.processes import CLEAN, start_process, stop_process
from tests.deploy.chart import Rendered
from tests.deploy.containerfile import environment as of_the_image
from tests.eventually import eventually
from tests.project.commands import ROOT
from tests.security.authority import Authority

OF_POSTGRESQL = "HANDFAST_DATABASE_MUST_REPLICATE"


def handfast(*arguments: str, environment: Mapping[str, str]) -> int:
    return subprocess.run([*HANDFAST, *arguments], env=CLEAN | dict(environment)).returncode


def succeeds(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    return handfast(*arguments, environment=environment) == 0


def status(host: str, path: str, context: ssl.SSLContext) -> int:
    try:
        with urllib.request.urlopen(f"https://{host}:50151{path}", context=context) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def transactions(told: Mapping[str, str], mounted: Mapping[str, str], token: Path, folder: Path) -> str:
    """What docs/deploy.md has an operator run in the pod of a server prints."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"-- sh -c '\n(.*?)' < operator.token", page, re.DOTALL)
    for place, here in {**mounted, "/dev/shm": str(folder)}.items():
        command = command.replace(place, here)
    environment = {**told, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-ec", command], env=environment, input=token.read_text(), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main(folder: Path) -> None:
    rendered, dev, authority = Rendered("production"), make(folder / "dev", []), Authority(folder)
    hosts = {server: f"handfast-{server}.handfast.svc.cluster.local" for server in SERVERS}
    addresses = {server: f"127.0.0.{number}" for number, server in enumerate(SERVERS, start=2)}
    names = folder / "hosts"
    names.write_text("".join(f"{addresses[server]} {hosts[server]}\n" for server in SERVERS))
    for command in (["ip", "link", "set", "lo", "up"], ["mount", "--bind", str(names), "/etc/hosts"]):
        subprocess.run(command, check=True)

    urls = {variable: f"sqlite:///{folder}/{variable}" for variable in rendered.secrets("migrate")}
    assert handfast(*rendered.container("migrate")["args"], environment=urls) == 0
    caller = authority.client("website.shop.svc.cluster.local", spiffe="")
    called = {f"HANDFAST_{server.upper()}_ADDRESS": f"{hosts[server]}:50051" for server in SERVERS}
    credentials = {
        "HANDFAST_CA": str(authority.file),
        "HANDFAST_CERTIFICATE": str(caller.certificate),
        "HANDFAST_KEY": str(caller.key),
        "HANDFAST_TOKEN_FILE": str(dev.token("admin")),
    }
    with ExitStack() as stack:
        for server in SERVERS:
            files = authority.server(server, hosts=[DNSName(hosts[server])])
            secrets = {"tls.crt": files.certificate, "tls.key": files.key, "ca.crt": authority.file}
            mounted = rendered.mounted(server, secrets, folder)
            told = {name: mounted.get(value, value) for name, value in rendered.told(server).items()}
            tokens = {
                name: value for name, value in dev.of_server(server).items() if name.startswith("HANDFAST_TOKEN_")
            }
            own = {f"HANDFAST_{server.upper()}_LISTEN": f"{addresses[server]}:50051"}
            own |= {name: urls[name] for name in rendered.secrets(server)}
            given = {**of_the_image(), **told, **tokens, **own, "PATH": os.environ["PATH"]}
            process = start_process(
                folder / f"{server}.log",
                tuple(rendered.container(server)["args"]),
                {name: value for name, value in given.items() if name != OF_POSTGRESQL},
                50051,
            )
            stack.callback(stop_process, process)
        # With the certificate of a server, here that of the last one.
        mounted = rendered.mounted("test", secrets, folder)
        for container in rendered.containers("test"):
            told = {each["name"]: mounted[each["value"]] for each in container["env"]}
            assert eventually(partial(succeeds, container["args"], told))
        assert handfast("demo", environment=called | credentials) == 0
        assert "Nothing is in doubt" in transactions(given, mounted, dev.token("operator"), folder)

        probe = ssl._create_unverified_context()  # as the kubelet's
        prometheus = ssl.create_default_context(cafile=authority.file)
        prometheus.load_cert_chain(caller.certificate, caller.key)
        for host in hosts.values():
            assert [status(host, path, probe) for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 403]
            assert status(host, "/metrics", prometheus) == 200
    print("The chart's suite has answered.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
