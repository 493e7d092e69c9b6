"""What a release goes through: its version, the check of its tag, and the workflows, which name only what there is."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project.commands import BIN, ROOT, run, succeed
from tools.set_version import PLACES, as_semver, set_version

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
RELEASED = "## [1.2.3] - 2026-12-01"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the check of a release reads, of a version 1.2.3."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "check-release.sh", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n\n[project.urls]\n')
    (tmp_path / "README.md").write_text("# Handfast\n")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{RELEASED}\n\n### Added\n\n- Much.\n")
    (tmp_path / ".venv").symlink_to(BIN.parent)
    (tmp_path / "protos").mkdir()
    (tmp_path / "buf.yaml").write_text("version: v2\nmodules: [{path: protos}]\n")
    (tmp_path / "protos" / "one.proto").write_text('syntax = "proto3"; message One {}')
    succeed((BIN / "buf", "build", "--exclude-source-info", "--output", "protos/released.binpb"), cwd=tmp_path)
    return tmp_path


def test_a_tag_is_released_where_all_belongs_to_it(project: Path) -> None:
    assert run("tools/check-release.sh", "v1.2.3", cwd=project).returncode == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("pyproject.toml", "1.2.3", "1.2.4", "the tag is v1.2.3, and pyproject.toml has the version 1.2.4"),
        ("pyproject.toml", "[project.urls]", "", "has no [project.urls]"),
        ("README.md", "# Handfast", "Nothing is published yet.", "says that nothing is published yet"),
        ("CHANGELOG.md", RELEASED, "", "has no section '## [1.2.3] - YYYY-MM-DD'"),
        ("CHANGELOG.md", RELEASED, "## [1.2.3]", "has no section"),
        ("CHANGELOG.md", RELEASED, "## [1x2.3] - 2026-12-01", "has no section"),
        ("CHANGELOG.md", RELEASED, f"- More.\n\n{RELEASED}", "has something under [Unreleased]"),
        ("protos/one.proto", "{}", "{ string added = 1; }", "`make freeze` writes it"),
    ],
)
def test_a_release_that_lacks_something_is_refused(project: Path, file: str, old: str, new: str, why: str) -> None:
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new))
    done = run("tools/check-release.sh", "v1.2.3", cwd=project)
    assert done.returncode == 1
    assert why in done.stdout


@pytest.fixture
def versioned(tmp_path: Path) -> Path:
    """Copies of all files that have the version in them."""
    for file in ("CHANGELOG.md", *(str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place))):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def versions(root: Path) -> set[str]:
    chart = yaml.safe_load((root / "deploy" / "chart" / "Chart.yaml").read_text())
    (manifest, *_) = yaml.safe_load_all((root / "tests" / "deploy" / "rendered" / "production.yaml").read_text())
    labels = manifest["metadata"]["labels"]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (pushed,) = re.findall(r"podman push \S+:(\S+)", (root / "docs" / "deploy.md").read_text())
    assert labels["helm.sh/chart"] == f"handfast-{chart['version']}"
    assert project["version"] == chart["appVersion"] == labels["app.kubernetes.io/version"] == pushed
    return {project["version"], chart["version"]}


def test_one_command_writes_the_version_wherever_it_stands(versioned: Path) -> None:
    assert versions(versioned) == {PROJECT["version"], as_semver(PROJECT["version"])}
    set_version("7.8.9rc1", versioned)
    assert versions(versioned) == {"7.8.9rc1", "7.8.9-rc1"}
    assert (versioned / "CHANGELOG.md").read_text() == (ROOT / "CHANGELOG.md").read_text()
    set_version("7.8.9", versioned)
    assert versions(versioned) == {"7.8.9"}
    unreleased, released = (versioned / "CHANGELOG.md").read_text().split("## [7.8.9] - ")
    assert unreleased.endswith("## [Unreleased]\n\n")
    assert "### Added" in released
    assert released.endswith(f"\n[Unreleased]: #unreleased\n[7.8.9]: #789---{released[:10]}\n")
    set_version("7.9.0.dev0", versioned)
    assert versions(versioned) == {"7.9.0.dev0", "7.9.0-dev0"}
    project = (versioned / "pyproject.toml").read_text().replace("7.9.0.dev0", PROJECT["version"])
    assert project == (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("version", ["", "v1.2.3", "1.2", "1.2.3-dev0", "1.2.3+local"])
def test_what_is_no_version_is_refused(versioned: Path, version: str) -> None:
    with pytest.raises(SystemExit, match=r"is none; such as 0\.1\.0"):
        set_version(version, versioned)


def test_no_other_file_has_the_version() -> None:
    if shutil.which("git") is None or run("git", "rev-parse").returncode != 0:
        pytest.skip("this is no clone")
    expected = {str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place)} | {"CHANGELOG.md"}
    for version in {PROJECT["version"], as_semver(PROJECT["version"])}:
        named = rf"handfast(\[.*\])?(:|-|==){re.escape(version)}"
        found = run("git", "grep", "--files-with-matches", "--extended-regexp", named, "--", ":!tests/project")
        assert set(found.stdout.split()) <= expected


def test_ci_runs_everything_on_each_python_that_the_package_is_for() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["everything"]["steps"]]
    versions = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert jobs["everything"]["strategy"]["matrix"]["python"] == versions


def test_where_tests_run_the_history_is_there_that_tests_of_upgrades_need() -> None:
    jobs = [job for path in WORKFLOWS for job in yaml.safe_load(path.read_text())["jobs"].values()]
    tests = re.compile(r"\.ci/run|make test RETEST=1\b")
    tested = [job["steps"] for job in jobs if any(tests.match(step.get("run", "")) for step in job["steps"])]
    assert len(tested) == 3
    for each in tested:
        assert [
            step["with"]["fetch-depth"] for step in each if step.get("uses", "").startswith("actions/checkout")
        ] == [0]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_is_there(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"].split() for step in steps(workflow) if "run" in step]
    assert commands
    for command in commands:
        if command[0] == "make":
            assert command[1] in targets
        elif command[0] not in ("git", "sudo") and not command[0].startswith(".venv/"):
            assert (ROOT / command[0]).stat().st_mode & 0o111


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_uses_what_nobody_can_replace_by_something_else(workflow: Path) -> None:
    pinned = re.findall(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", workflow.read_text(), re.MULTILINE)
    assert len(pinned) == len([step for step in steps(workflow) if "uses" in step])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_no_more_than_it_has_to(workflow: Path) -> None:
    told = yaml.safe_load(workflow.read_text())
    assert told["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in told["jobs"].items() if "permissions" in job}
    assert more == ({"publish": {"id-token": "write"}} if workflow.name == "release.yaml" else {})
    assert all("timeout-minutes" in job for job in told["jobs"].values())
