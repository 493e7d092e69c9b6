"""Gathers the pages of the site, as zensical.toml names them, in a folder out of which Zensical builds it.

    python tools/docs.py SCRIPTS

Each page has there the path that it has in the repository, so that links between pages and to pictures hold; a link
that shows a page's path shows its name instead. A link to any other file becomes one to `repo_url`, or where that is
not set, the file's path. SCRIPTS is a folder with what pages would else load from a CDN.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "zensical.toml"
BRANCH = "main"

_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_OF_ITEM = re.compile(r"^ {2,3}(?=\S)", re.MULTILINE)
_LINK = re.compile(r"`[^`]+`|(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
"""Matches code, too, in which nothing is a link, and then has no target."""
_DIAGRAM = """\
<div class="diagram" data-search-exclude markdown>
<script src="{to_root}mermaid.min.js"></script>

{fenced}

</div>"""


def pages(nav: list[dict[str, Any]]) -> dict[str, str]:
    """The name of each page in a `nav`, by its path, in the order of the `nav`."""
    found: dict[str, str] = {}
    for entry in nav:
        for name, below in entry.items():
            found |= {below: name} if isinstance(below, str) else pages(below)
    return found


def gather(scripts: Path, where: Path = ROOT) -> None:
    """Writes the pages to the `docs_dir` in `where`, with what they show and load."""
    project = tomllib.loads(CONFIG.read_text())["project"]
    names = pages(project["nav"])
    folder = where / project["docs_dir"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scripts, folder)
    for page in names:
        text = (ROOT / page).read_text()
        for picture in _pictures(page, text):
            if not (ROOT / picture).exists():
                sys.exit(f"{page}: there is no {picture}, which it shows")
            _put(folder / picture, (ROOT / picture).read_bytes())
        _put(folder / page, for_site(page, text, names, project.get("repo_url")).encode())


def for_site(page: str, text: str, names: dict[str, str], repo_url: str | None = None) -> str:
    """The text of a page as the site has it. Raises SystemExit for a link to a file that is not there."""
    relink = partial(_relink, page=page, names=names, repo_url=repo_url)
    parts, end = [], 0
    for fenced in _FENCED.finditer(text):
        parts += [_prose(text[end : fenced.start()], relink), _block(fenced, page)]
        end = fenced.end()
    parts.append(_prose(text[end:], relink))
    return "".join(parts)


def _prose(text: str, relink: Callable[[re.Match[str]], str]) -> str:
    # Python-Markdown takes for a part of a list's item only what is indented by four.
    return _OF_ITEM.sub("    ", _LINK.sub(relink, text))


def _block(fenced: re.Match[str], page: str) -> str:
    if fenced[0].startswith("```mermaid\n"):
        return _DIAGRAM.format(to_root="../" * page.count("/"), fenced=fenced[0])
    return indent(fenced[0], " " * (4 - len(fenced[1]))) if 2 <= len(fenced[1]) <= 3 else fenced[0]


def _relink(link: re.Match[str], *, page: str, names: dict[str, str], repo_url: str | None) -> str:
    target = link["target"]
    if target is None or link["picture"] or "://" in target or target.startswith("#"):
        return link[0]
    file, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), file))
    name = link["text"].strip("`").rstrip("/")
    if path in names:  # Zensical checks that the anchor is there
        return f"[{names[path]}]({target})" if f"/{path}".endswith(f"/{name}") else link[0]
    if not (ROOT / path).exists():
        sys.exit(f"{page}: there is no {path}, to which it links")
    if repo_url:
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{link['text']}]({repo_url}/{kind}/{BRANCH}/{path}{'#' * bool(anchor)}{anchor})"
    path = path.removesuffix("/__init__.py")
    says_it = f"/{path}".endswith(f"/{name}") or path.startswith(f"{name}/")
    return f"`{path}`" if says_it else f"{link['text']} in `{path}`"


def _pictures(page: str, text: str) -> Iterator[str]:
    for link in _LINK.finditer(_FENCED.sub("", text)):
        if link["picture"] and "://" not in link["target"]:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(page), link["target"]))


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
