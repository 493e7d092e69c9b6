"""The supervisor, with programs that end at awkward moments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from tests.cli.processes import CLEAN, is_running
from tests.eventually import PATIENCE

READY = "printf 'READY=1\\n' >&0; "
FOREVER = "while :; do sleep 0.01; done"

SUPERVISE = """
import json, os, sys
from handfast.server.cli import supervisor
from handfast.server.cli.supervisor import Program, supervise

supervisor.KILL_MARGIN = float(sys.argv[2])

def on_ready():
    print("ready", flush=True)

programs = [
    Program(name, command, dict(os.environ), needs) for name, (command, needs) in json.loads(sys.argv[1]).items()
]
sys.exit(supervise(programs, grace=1, on_ready=on_ready))
"""


def supervise(
    folder: Path,
    programs: dict[str, tuple[str, list[str]]],
    stdout: int = PIPE,
    stderr: int = PIPE,
    kill_margin: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Supervises shell scripts, each with the names of what it needs, which run in `folder`, until they end it."""
    commands = {name: (["sh", "-c", script], needs) for name, (script, needs) in programs.items()}
    return run(folder, commands, stdout, stderr, kill_margin)


def run(
    folder: Path,
    programs: dict[str, tuple[list[str], list[str]]],
    stdout: int = PIPE,
    stderr: int = PIPE,
    kill_margin: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", SUPERVISE, json.dumps(programs), str(kill_margin)]
    return subprocess.run(command, cwd=folder, env=CLEAN, stdout=stdout, stderr=stderr, text=True, timeout=PATIENCE)


def test_a_program_that_ends_while_others_are_waited_for_ends_no_less_well(tmp_path: Path) -> None:
    """Users is to be asked to stop when accounts has ended, and has ended by itself by then."""
    accounts = f"trap 'touch stopping; sleep 0.5; exit 0' TERM; touch armed; {FOREVER}"
    programs: dict[str, tuple[str, list[str]]] = {
        "users": ("until [ -e stopping ]; do sleep 0.01; done; exit 3", []),
        "preferences": ("until [ -e armed ]; do sleep 0.01; done; exit 2", []),
        "accounts": (accounts, ["users", "preferences"]),
    }
    done = supervise(tmp_path, programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert [json.loads(line)["service"] for line in done.stderr.splitlines()] == ["preferences"]


def test_a_program_that_cannot_be_started_ends_the_whole_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, {"users": (["/nowhere/handfast"], []), "preferences": (["sh", "-c", FOREVER], [])})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert (json.loads(line)["service"], "/nowhere/handfast" in json.loads(line)["error"]) == ("users", True)


def test_what_cannot_be_announced_is_raised_by_itself_when_all_have_ended(tmp_path: Path, unread: int) -> None:
    done = supervise(tmp_path, {"users": (f"trap 'touch ended; exit 0' TERM; {READY}{FOREVER}", [])}, stdout=unread)
    assert (tmp_path / "ended").exists()
    assert "BrokenPipeError" in done.stderr
    assert "ExceptionGroup" not in done.stderr


def test_a_program_is_restarted_though_nobody_reads_the_log(tmp_path: Path, unread: int) -> None:
    """The first run ends by itself, the second has the supervisor stop."""
    script = f"{READY}if [ -e once ]; then touch twice; kill -TERM $PPID; {FOREVER}; fi; touch once; sleep 0.2"
    done = supervise(tmp_path, {"users": (script, [])}, stderr=unread)
    assert (tmp_path / "twice").exists()
    assert done.returncode == 0


def test_a_program_that_hangs_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    programs: dict[str, tuple[str, list[str]]] = {
        "users": (f"{READY}echo $$ > pid; kill -STOP $$; {FOREVER}", []),
        "preferences": (f"{READY}until [ -s pid ]; do sleep 0.01; done; kill -TERM $PPID; {FOREVER}", []),
    }
    done = supervise(tmp_path, programs, kill_margin=0)
    assert done.returncode == 0
    pid = int((tmp_path / "pid").read_text())
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    (killed,) = [each for each in logged if each["service"] == "users"]
    assert (killed["event"], killed["pid"]) == ("server does not end, killing it", pid)
    assert not is_running(pid)
