"""The docs as a site: which pages it has, what becomes of their links, and that it builds without a warning."""

from __future__ import annotations

import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.project.commands import ROOT, run
from tools import docs

PROJECT = tomllib.loads(docs.CONFIG.read_text())["project"]
NAMES = docs.pages(PROJECT["nav"])
SCRIPTS = ROOT / ".tools" / "docs"
ZENSICAL = ROOT / ".venv-docs" / "bin" / "zensical"
SOURCE = "[conflicts.py](../servers/handfast/server/transactions/core/conflicts.py#L1)"


class _Loaded(HTMLParser):
    """Collects what a page has a browser load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.found.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.found.append(str(values["href"]))


def test_each_page_of_the_docs_is_in_the_navigation_and_each_page_there_exists() -> None:
    written = {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")}
    assert written - set(NAMES) == set()
    assert [page for page in NAMES if not (ROOT / page).is_file()] == []
    assert next(iter(NAMES)) == "README.md"


def test_a_page_has_the_title_that_the_navigation_shows() -> None:
    titles = {page: (ROOT / page).read_text().partition("\n")[0] for page in NAMES if page != "README.md"}
    assert titles == {page: f"# {NAMES[page]}" for page in titles}


def test_a_link_to_a_page_stays_and_shows_the_name_of_the_page_for_its_path() -> None:
    text = "[docs/errors.md](docs/errors.md) and [all of them](docs/errors.md#of-transactions)"
    expected = "[Errors](docs/errors.md) and [all of them](docs/errors.md#of-transactions)"
    assert docs.for_site("README.md", text, NAMES) == expected


def test_a_link_to_a_source_names_the_file() -> None:
    path = "servers/handfast/server/transactions/core/conflicts.py"
    for shown, expected in {
        "`conflicts.py`": f"`{path}`",
        "`blocker`": f"`blocker` in `{path}`",
        "the\nrules": f"the\nrules in `{path}`",
    }.items():
        assert docs.for_site("docs/x.md", f"[{shown}](../{path})", NAMES) == expected
    assert docs.for_site("README.md", "[`protos/`](protos/handfast)", NAMES) == "`protos/handfast`"


def test_a_link_to_a_source_leads_to_the_repository_where_that_is_known() -> None:
    path = "blob/main/servers/handfast/server/transactions/core/conflicts.py#L1"
    assert docs.for_site("docs/x.md", SOURCE, NAMES, "https://git.example/h") == (
        f"[conflicts.py](https://git.example/h/{path})"
    )
    assert docs.for_site("README.md", "[tests](tests)", NAMES, "https://git.example/h") == (
        "[tests](https://git.example/h/tree/main/tests)"
    )


def test_a_link_to_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(SystemExit, match=r"docs/x\.md: there is no docs/nothing\.md, to which it links"):
        docs.for_site("docs/x.md", "[nothing](nothing.md)", NAMES)


def test_what_code_shows_is_no_link() -> None:
    for text in ("```python\nfirst[0](nothing)\n```\n", "`first[0](nothing)`, `[a](b)` and `![a](b)`"):
        assert docs.for_site("docs/x.md", text, NAMES) == text
    assert docs.for_site("docs/x.md", "`x[0]`: [`errors.md`](errors.md)", NAMES) == "`x[0]`: [Errors](errors.md)"


def test_a_picture_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("# Handfast\n\n![A trace](docs/nothing.svg)\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "scripts").mkdir()
    with pytest.raises(SystemExit, match=r"README\.md: there is no docs/nothing\.svg, which it shows"):
        docs.gather(tmp_path / "scripts", tmp_path)


def test_what_belongs_to_an_item_of_a_list_is_indented_as_the_builder_wants_it() -> None:
    text = "1. One\n   goes on.\n\n   ```sh\n   ls\n     -l\n   ```\n\n2. Two\n"
    expected = "1. One\n    goes on.\n\n    ```sh\n    ls\n      -l\n    ```\n\n2. Two\n"
    assert docs.for_site("docs/x.md", text, NAMES) == expected


@pytest.mark.parametrize("published", [False, True], ids=["unpublished", "published"])
def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path, published: bool) -> None:
    if not all((ROOT / made).exists() for made in (ZENSICAL, SCRIPTS / "mermaid.min.js", SCRIPTS / "iframe-worker.js")):
        pytest.skip("`make docs` installs what builds the site")
    config = docs.CONFIG.read_text()
    if published:
        urls = 'repo_url = "https://github.com/you/handfast"\nsite_url = "https://you.github.io/handfast/"'
        config = config.replace("[project]", f"[project]\n{urls}", 1)
    (tmp_path / docs.CONFIG.name).write_text(config)
    shutil.copytree(ROOT / PROJECT["theme"]["custom_dir"], tmp_path / PROJECT["theme"]["custom_dir"])
    docs.gather(SCRIPTS, tmp_path)
    built = run(ZENSICAL, "build", "--strict", cwd=tmp_path)
    assert built.returncode == 0, built.stdout

    site = tmp_path / PROJECT["site_dir"]
    for page in NAMES:
        file = site / re.sub(r"README\.md$", "index.md", page).replace(".md", ".html")
        html = file.read_text()
        assert ("https://github.com/you/handfast" in html) is published
        assert 'data-md-component="source"' not in html  # would have browsers ask GitHub for numbers
        page_of = _Loaded()
        page_of.feed(html)
        assert any("iframe-worker.js" in each for each in page_of.found)  # the search of pages opened as files
        for loaded in page_of.found:
            assert (file.parent / loaded.partition("?")[0]).is_file(), (page, loaded)
    assert "mermaid.min.js" in (site / "docs" / "atomic-commit.html").read_text()
    assert "sequenceDiagram" not in (site / "search.json").read_text()
    not_found = _Loaded()
    not_found.feed((site / "404.html").read_text())  # at any depth, so by paths from the root
    assert all(loaded.startswith("/handfast/" if published else "/") for loaded in not_found.found)
