"""The pages below docs/: width of lines, links, and names of files and functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOP = sorted(DOCS.parent.glob("*.md"))
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
WIDTH = 120

CODE = re.compile(r"`([a-z_/]+\.py):([A-Za-z_.]+)`")
"""`file.py:function`, the file below retro/."""
COUNTED = re.compile(r"(\d+) functions in (\d+) modules")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def page_name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("path", [*PAGES, *TOP], ids=lambda path: path.name)
def test_no_line_but_a_row_of_a_table_is_wider_than_120_columns(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [line for line in lines if len(line) > WIDTH and not line.startswith("| ")]
    assert wide == []


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_to_a_file_of_ours_leads_somewhere(path: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        if not found.exists() or (anchor and anchor not in anchors_of(found)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_the_index_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCS.glob("*.md") if path.name not in index and path.name != "README.md"] == []


def names_of(path: Path) -> set[str]:
    """Functions, classes and methods that a module defines, methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "name"), sorted(set(CODE.findall(ARCHITECTURE))))
def test_a_function_that_the_architecture_names_exists(file: str, name: str) -> None:
    assert name in names_of(DOCS.parent / "retro" / file)


def test_the_architecture_counts_its_steps_rightly() -> None:
    counts = list(COUNTED.finditer(ARCHITECTURE))
    ends = [count.start() for count in counts[1:]] + [len(ARCHITECTURE)]
    assert len(counts) == 5
    for count, end in zip(counts, ends, strict=True):
        steps = re.findall(r"^\d\. .*(?:\n   .*)*", ARCHITECTURE[count.end() : end], flags=re.MULTILINE)
        named = set(CODE.findall("\n".join(steps)))
        assert (len(named), len({file for file, _ in named})) == (int(count[1]), int(count[2]))


def test_every_package_is_in_the_tree_of_the_architecture() -> None:
    tree = ARCHITECTURE.partition("```\n")[2].partition("```")[0]
    packages = {path.parent.name for path in (DOCS.parent / "retro").glob("*/__init__.py")}
    assert packages - set(re.findall(r"(?:^|\s)([a-z_]+)/", tree)) == set()


def test_every_test_that_the_architecture_names_exists() -> None:
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)`", ARCHITECTURE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (DOCS.parent / name).exists()] == []
