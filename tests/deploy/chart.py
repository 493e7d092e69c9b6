"""What Helm makes of deploy/chart, read: rendered/, which `make chart` writes, or what it prints where it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project.commands import ROOT, find_tool, run

CHART = ROOT / "deploy" / "chart"
ETC = "/etc/handfast"
"""Where pods have what is mounted."""
DATABASE_CA = f"{ETC}/database/ca.crt"
"""In production, where that is by which URLs trust databases. Servers have no setting for it."""

Manifest = dict[str, Any]


class Rendered:
    """The manifests that one set of values gives, by kind and name."""

    def __init__(self, name: str) -> None:
        text = (ROOT / "tests" / "deploy" / "rendered" / f"{name}.yaml").read_text()
        self.all: list[Manifest] = list(yaml.safe_load_all(text))
        self._by_name = {(each["kind"], each["metadata"]["name"]): each for each in self.all}
        self.is_open = name == "small"

    def __call__(self, kind: str, name: str) -> Manifest:
        return self._by_name[kind, f"handfast-{name}"]

    def kind(self, kind: str) -> list[Manifest]:
        return [each for each in self.all if each["kind"] == kind]

    def pod(self, name: str) -> Manifest:
        if name == "test":
            return self("Pod", name)
        template: Manifest = self("Job" if name == "migrate" else "Deployment", name)["spec"]["template"]
        return template

    def containers(self, pod: str) -> list[Manifest]:
        containers: list[Manifest] = self.pod(pod)["spec"]["containers"]
        return containers

    def container(self, pod: str) -> Manifest:
        (container,) = self.containers(pod)
        return container

    def volumes(self, server: str) -> dict[str, Manifest]:
        return {each["name"]: each for each in self.pod(server)["spec"].get("volumes", [])}

    def secrets(self, server: str) -> dict[str, Manifest]:
        """The variables that are taken from secrets."""
        return {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in self.container(server)["env"]
            if "valueFrom" in each
        }

    def told(self, server: str) -> dict[str, str]:
        """All other variables."""
        return {each["name"]: each["value"] for each in self.container(server)["env"] if "value" in each}

    def mounted(self, server: str, secrets: Mapping[str, Path], folder: Path) -> dict[str, str]:
        """Where a test has what is at each path of the server's pod: what is in secrets, by the names of their files;
        what is in manifests, written into `folder`. Raises AssertionError where servers would refuse it, or not see it
        renewed."""
        volumes = self.volumes(server)
        files: dict[str, str] = {}
        for mount in self.containers(server)[0].get("volumeMounts", []):
            assert mount["readOnly"]
            assert "subPath" not in mount  # which is never renewed
            volume = volumes.pop(mount["name"])
            if mount["mountPath"] == str(Path(DATABASE_CA).parent):
                continue
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440  # with the pod's group, what servers allow
                content = {item["path"]: secrets[item["path"]] for item in volume["secret"]["items"]}
            else:
                name = volume["configMap"]["name"].removeprefix("handfast-")
                content = {file: folder / file for file in self("ConfigMap", name)["data"]}
                for file, text in self("ConfigMap", name)["data"].items():
                    content[file].write_text(text)
            files |= {f"{mount['mountPath']}/{file}": str(path) for file, path in content.items()}
        assert not volumes
        return files


def helm(*arguments: str | Path) -> str:
    """What `helm template` prints, its errors too."""
    tool = find_tool("helm")
    if tool is None:
        pytest.skip("helm is neither in .tools/bin nor on the PATH; `make helm` builds it")
    return run(tool, "template", *arguments, "--kube-version", "1.33.0").stdout


def manifests(printed: str) -> Iterator[Manifest]:
    return iter(yaml.safe_load_all(printed[printed.index("---\n") :]))
