"""Writes a service of one's own, which takes part in transactions, as a skeleton that runs."""

from __future__ import annotations

import importlib.util
import keyword
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from handfast.server.cli.dev.folder import NAMES_OF_FILES
from handfast.server.process.command import Failure
from handfast.server.suite import LONGEST_NAME, NAME, NAMES_IN_USE

_TABLES = {"branches", "operations", "claims", "claim_changes", "horizon", "requests", "handfast_schema"}
_FOLDERS = {"deps", "protos", "tests", "var"}
# Messages and fields of the contract that would be there twice.
_IN_CONTRACT = {"reason", "request", "request_id", "update_mask"}
# Their keys would be columns of the library.
_IN_TABLE = {"pending_transaction", "last_transaction"}


def write(name: str, resource: str, folder: Path) -> None:
    """Writes the service `name`, whose one kind of resource is called `resource`, into a new folder. Raises Failure,
    with nothing written, where a name cannot be used or the folder is there already.
    """
    _check("NAME", name)
    _check("--resource", resource)
    if name in NAMES_IN_USE:
        raise Failure(f"NAME is {name}, which the suite has another use for; choose another")
    if name in NAMES_OF_FILES:
        raise Failure(f"NAME is {name}, which credentials for development have another file of; choose another")
    if name in _FOLDERS:
        raise Failure(f"NAME is {name}, which is another folder of each service; choose another")
    if importlib.util.find_spec(name):
        raise Failure(f"NAME is {name}, and a Python module of this name is there already; choose another")
    if resource in _TABLES | _IN_CONTRACT | _IN_TABLE or resource == f"{name}_service":
        raise Failure(f"--resource is {resource}, which means something else in each service; choose another")
    if folder.exists():
        raise Failure(f"{folder} is there already; remove it, or name another --directory")
    values = {
        "name": name,
        "Name": _camel(name),
        "project": name.replace("_", "-"),
        "resource": resource,
        "Resource": _camel(resource),
        "RESOURCE": resource.upper(),
    }
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.absolute().parent) as scratch:
            whole = Path(scratch, "whole")
            _fill(files(__package__) / "templates" / "service", whole, values)
            whole.rename(folder)  # so that there is all of it or nothing
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error


def _check(what: str, name: str) -> None:
    if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise Failure(
            f"{what} must be up to {LONGEST_NAME} lower-case letters and digits, with single underscores between them "
            f"and a letter first, such as loyalty_points, not {name!r}"
        )
    if keyword.iskeyword(name):
        raise Failure(f"{what} is {name}, which is a keyword of Python; choose another")


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _fill(source: Traversable, target: Path, values: dict[str, str]) -> None:
    """Writes what is in the folder `source` to `target`, which it makes."""
    target.mkdir()
    for each in source.iterdir():
        name = each.name.removesuffix(".tmpl").replace("NAME", values["name"])
        if each.is_dir():
            _fill(each, target / name, values)
        elif each.name.endswith(".tmpl"):
            text = Template(each.read_text(encoding="utf-8")).substitute(values)
            (target / name.replace("gitignore", ".gitignore")).write_text(text, encoding="utf-8")
