"""The commands and links of the README and the docs: they exist, their settings are known, their files are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "retro" / "recipes").glob("*/README.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *RECIPES]
# What a line may start with besides `make` and `retro`. Of these, scripts must be there and files that are named too.
ALLOWED = {".", "bash", "docker/build.sh", "docker/run.sh", "pip", "python", "torchrun"}


def commands(page: Path) -> list[str]:
    """The command lines of a page's ```bash blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s+)# .*", "", line) for line in lines) if line.strip()]


def targets() -> set[str]:
    """What `make` can be asked for."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def retro_part(words: list[str]) -> list[str]:
    """The arguments of the `retro` command within a command line; empty where there is none."""
    for start in (["retro"], ["-m", "retro"]):
        for place in range(len(words)):
            if words[place : place + len(start)] == start and (place == 0 or words[0] in ALLOWED):
                return words[place + len(start) :]
    return []


def run_retro(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "retro", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def test_commands_are_found_in_the_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nmake a \\\n  b\n\n# why\nretro c  # it's so\n```\n```yaml\nd: e\n```\n```\nf\n```\n")
    assert commands(page) == ["make a    b", "retro c"]


def test_the_retro_command_is_found_behind_a_launcher() -> None:
    assert retro_part(["retro", "run", "a.yaml"]) == ["run", "a.yaml"]
    assert retro_part(["torchrun", "--nproc-per-node", "8", "-m", "retro", "sft"]) == ["sft"]
    assert retro_part(["docker/run.sh", "cpu", "retro", "doctor"]) == ["doctor"]
    assert retro_part(["pip", "install", "torch"]) == []


def test_the_readme_has_its_two_commands_first() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make quickstart", "make test"]


EVERY = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("line", EVERY)
def test_a_command_in_the_docs_can_be_typed(line: str) -> None:
    words = shlex.split(line)
    assert words[0] in ALLOWED | {"make", "retro"}
    if words[0] == "make":
        assert set(words[1:]) <= targets()
    if words[0] in {"bash", "docker/build.sh", "docker/run.sh", "python"}:
        script = ROOT / words[words[0] in {"bash", "python"}]
        assert script.is_file()
        assert os.access(script, os.X_OK)
    for word in words:
        assert not word.endswith((".yaml", ".txt")) or (ROOT / word).is_file(), f"{word} does not exist"


def retro_lines() -> list[object]:
    """Each `retro` command of the pages, once."""
    parts = {tuple(part) for page in PAGES for line in commands(page) if (part := retro_part(shlex.split(line)))}
    return [pytest.param(list(part), id=" ".join(part)) for part in sorted(parts)]


# What runs where the first word is none of a group's commands.
UNNAMED = {"plan": ["plan", "model"], "db": ["db", "build"]}


@pytest.mark.parametrize("arguments", retro_lines())
def test_a_retro_command_and_its_settings_exist(arguments: list[str]) -> None:
    options = {word for word in arguments if word.startswith("--")}
    names = [word for word in arguments if re.fullmatch(r"[a-z]+", word)]
    help_of = names[:2] if names[0] == "config" or names[:2] == ["plan", "db"] else UNNAMED.get(names[0], names[:1])
    helped = run_retro(*help_of, "--help")
    assert helped.returncode == 0, helped.stderr
    assert all(option in helped.stdout for option in options)
    settings = [word for word in arguments if "=" in word or word.endswith(".yaml")]
    shown = run_retro("config", "show", *settings)
    assert shown.returncode == 0, shown.stderr
    if "--dry-run" in options:
        planned = run_retro(*arguments)
        assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]
    assert missing == []
