"""What the pages, the workflows and the hooks name is there: paths, rooms, `make` targets, programs."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
# `retro/qa/prompts.yaml`, `tests/db`, `tools/retro/sft/blends/*.yaml`; what follows a colon is a test's name or a line.
PATH = re.compile(r"`((?:retro|tests|tools)/[\w./*-]*)")


def named_paths(text: str) -> list[str]:
    return [name.rstrip(".") for name in PATH.findall(text)]


def exists(name: str, folder: Path = ROOT) -> bool:
    return any(folder.glob(name))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_paths_are_found_in_a_text() -> None:
    text = "see `retro/db/a.py`, `tests/db`, `tests/b.py::test_c`, (`tools/x/*.yaml`) and `docs/d.md`, `a/retro/f`"
    assert named_paths(text) == ["retro/db/a.py", "tests/db", "tests/b.py", "tools/x/*.yaml"]
    assert not exists("retro/no_such_room/")
    assert not exists("tools/*.no_such_ending")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in named_paths(page.read_text(encoding="utf-8")) if not exists(name)] == []


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return list(chain.from_iterable(job["steps"] for job in read(workflow)["jobs"].values()))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_asks_make_for_what_it_makes(workflow: Path) -> None:
    lines = [shlex.split(line) for step in steps(workflow) for line in step.get("run", "").splitlines()]
    asked = {word for words in lines if words[:1] == ["make"] for word in words[1:] if "=" not in word}
    assert asked
    assert asked - targets() == set()


def test_ci_tests_the_oldest_and_the_newest_python_that_is_admitted() -> None:
    pythons = read(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest, below = re.findall(r"3\.(\d+)", project["requires-python"])
    assert pythons == [f"3.{oldest}", f"3.{int(below) - 1}"]


def test_ci_keeps_downloads_by_the_hash_of_the_locks() -> None:
    caches = [
        step["with"] for step in steps(ROOT / ".github/workflows/ci.yml") if "setup-python" in step.get("uses", "")
    ]
    assert [(one["cache"], exists(one["cache-dependency-path"])) for one in caches] == [("pip", True)] * 3


def hooks() -> list[dict[str, Any]]:
    config = read(ROOT / ".pre-commit-config.yaml")
    assert [repo["repo"] for repo in config["repos"]] == ["local"], "a hook downloads nothing"
    return list(config["repos"][0]["hooks"])


def test_hooks_run_what_the_locks_install_or_what_the_system_has() -> None:
    entries = {hook["id"]: shlex.split(hook["entry"]) for hook in hooks()}
    installed = {words[2].split("_")[0] for words in entries.values() if words[:2] == [".venv/bin/python", "-m"]}
    locked = (ROOT / "locks/test.txt").read_text(encoding="utf-8")
    assert installed == {"ruff", "mypy", "codespell"}
    assert [name for name in installed if f"\n{name}==" not in locked] == []
    assert {name for name, words in entries.items() if words[0] == "bash"} == {"shellcheck", "hadolint"}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_asks_something(form: Path) -> None:
    found = read(form)
    assert {"name", "description", "body"} <= set(found)
    questions = {question["id"]: question.get("validations", {}).get("required", False) for question in found["body"]}
    assert len(questions) == len(found["body"])
    assert any(questions.values())


def test_a_bug_comes_with_what_the_doctor_says() -> None:
    text = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")
    assert "`retro doctor --json`" in text


def test_the_citation_has_the_version_and_the_license_of_the_package() -> None:
    cited = read(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["cff-version"] == "1.2.0"
    assert (cited["title"], cited["license"]) == (project["name"], project["license"])
    assert str(cited["version"]) == project["version"]
    papers = [reference["identifiers"][0]["value"] for reference in cited["references"]]
    assert papers == ["arXiv:2112.04426", "arXiv:2310.07713"]


def test_the_source_distribution_has_what_it_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in included if not (ROOT / name).exists()] == []
    assert {"CHANGELOG.md", "CITATION.cff", "SECURITY.md", "LICENSE"} <= set(included)
