"""The site of the documentation: links between pages, and the references that are generated from the code."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.model.config import ModelConfig
from retro.run.config import RunConfig

ROOT = Path(__file__).parents[1]
README = "[a page](docs/index.md#embedders), [code](retro/api/run.py), ![a picture](docs/road.svg), [b](https://b.org)"


def tool(name: str) -> Any:
    """A module of tools/docs, which is no package."""
    sys.path.insert(0, str(ROOT / "tools/docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_links_of_the_readme_lead_to_pages_of_the_site() -> None:
    found = tool("site_links").as_in_the_site(README, "quickstart.md", "")
    assert found == "[a page](indexes.md#embedders), code, ![a picture](road.svg), [b](https://b.org)"


def test_links_to_source_files_lead_into_a_public_repository() -> None:
    found = tool("site_links").as_in_the_site("[a](../retro/api/run.py)", "api.md", "https://a.org/retro/")
    assert found == "[a](https://a.org/retro/blob/main/retro/api/run.py)"


def test_links_are_relative_to_the_page_in_the_site() -> None:
    change = tool("site_links").as_in_the_site
    assert change("[a](../README.md)", "results/README.md", "") == "[a](../index.md)"
    assert change("[a](EVALUATION.md)", "recipes/dynamic_prefix.md", "") == "[a](dynamic_prefix_evaluation.md)"
    assert change("[![b](docs/road.svg)](docs/api.md)", "quickstart.md", "") == "[![b](road.svg)](api.md)"


def test_code_keeps_what_looks_like_a_link() -> None:
    text = "`[a](b.md)`\n\n```python\n[a](b.md)\n```\n"
    assert tool("site_links").as_in_the_site(text, "api.md", "") == text


@pytest.mark.parametrize("source", sorted(tool("site_links").RENAMED))
def test_every_page_from_elsewhere_exists(source: str) -> None:
    assert (ROOT / source).is_file()


def test_every_markdown_file_beside_a_recipe_is_a_page() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "retro").rglob("*.md")}
    assert pages - tool("site_links").RENAMED.keys() == set()


def in_the_navigation(part: Any) -> set[str]:
    if isinstance(part, str):
        return {part}
    return set().union(*map(in_the_navigation, part.values() if isinstance(part, dict) else part))


def test_every_page_has_a_place_in_the_navigation() -> None:
    # Without the parts that name Python functions, which no safe loader takes.
    text = re.sub(r"!!python\S+|!ENV", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    links = tool("site_links")
    pages = {links.page_of(f"docs/{path.name}") for path in (ROOT / "docs").glob("*.md")}
    assert in_the_navigation(config["nav"]) == pages | set(links.RENAMED.values()) | {"results/README.md"}
    assert config["strict"] is True


def test_the_reference_has_every_setting_with_a_description() -> None:
    rows = {name: row for name, *row in tool("reference").settings(RunConfig)}
    assert rows["train.lr"][:2] == ["number > 0", "`0.0006`"]
    assert rows["corpus.sources[].path"][:2] == ["path or null", "`null`"]
    assert {f"model.{name}" for name in ModelConfig.model_fields} <= rows.keys()
    assert [name for name, row in rows.items() if not row[2]] == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [(int | None, "integer or null"), (tuple[str, ...], "list of text"), (dict[str, Path], "path by name")],
)
def test_types_are_named_as_users_write_values(kind: Any, name: str) -> None:
    assert tool("reference").type_name(kind) == name


def test_the_reference_of_the_server_has_routes_and_fields() -> None:
    text = tool("reference").http_api()
    assert "## `POST /v1/chat/completions`" in text
    assert "## `POST /retrieve`" in text
    assert re.search(r"^\| `temperature` \| number.*\|$", text, flags=re.MULTILINE)
    assert "422" not in text


def test_the_reference_of_the_api_has_signatures_and_docstrings() -> None:
    text = tool("reference").python_api()
    assert "### `Run.open`" in text
    assert "* `overrides`: Settings over those of the file" in text
    assert "### `Generator.score`" in text


def test_markers_are_filled_in() -> None:
    found = tool("reference").filled_in("a\n<!-- generated: python-api -->\nb\n")
    assert found.startswith("a\n## `retro.api")
    assert "generated:" not in found


def test_every_setting_beside_a_flag_of_nvidias_exists() -> None:
    text = (ROOT / "docs/nvidia.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--(?:no-)?retro-[a-z-]+` \| ([^|]*) \|", text, flags=re.MULTILINE)
    known = {name for name, *_ in tool("reference").settings(RunConfig)}
    named = [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]
    assert len(rows) == 43
    assert all(cell == "none" or "`" in cell for cell in rows)
    assert [name for name in named if name not in known] == []
