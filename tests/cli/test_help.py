"""The help of every command: headings in the order of the pipeline, whole summaries, examples that can be typed."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from retro.cli import main
from retro.run.config import load_run_config
from retro.run.pipeline import STAGES

GROUP: Any = typer.main.get_command(main.app)


def commands(group: Any, *path: str) -> dict[tuple[str, ...], Any]:
    """Every command by its words, groups too."""
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        found[(*path, name)] = command
        if hasattr(command, "commands"):
            found |= commands(command, *path, name)
    return found


COMMANDS = commands(GROUP)


def help_of(*words: str) -> str:
    return CliRunner().invoke(main.app, [*words, "--help"], env={"COLUMNS": "80"}).output


def test_every_command_is_under_one_heading() -> None:
    listed = [name for names in main.HEADINGS.values() for name in names]
    assert sorted(listed) == sorted(GROUP.commands)


def test_stages_are_listed_in_the_order_of_the_pipeline() -> None:
    stages = [one.name for one in STAGES]
    assert [name for name in main.HEADINGS["Pipeline, in order"] if name in stages] == stages


def test_no_summary_is_cut_at_the_edge_of_the_terminal() -> None:
    for words in ((), ("db",), ("sft",), ("plan",)):
        assert "..." not in help_of(*words).replace("]...", "")


def test_a_group_shows_the_options_of_the_command_that_it_stands_for() -> None:
    assert "--size" in help_of("plan")
    assert "--workers" in help_of("db")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_two_examples_that_its_own_options_allow(words: tuple[str, ...]) -> None:
    epilog = COMMANDS[words].epilog
    assert epilog is not None
    lines = [line.strip() for line in epilog.splitlines()[2:]]
    assert len(lines) == 2
    for line in lines:
        typed = shlex.split(line.partition(" > ")[0])
        assert "retro" in typed
        typed = typed[typed.index("retro") + 1 :]
        assert tuple(typed[: len(words)]) == words or words[-1] in ("build", "tune", "model")
        parse(GROUP, typed)


def parse(group: Any, typed: list[str]) -> None:
    """Read a command line as the program does, down to the last command, and run nothing."""
    context = group.make_context("retro", typed, resilient_parsing=False)
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_the_old_name_of_a_command_works_and_says_the_new_one() -> None:
    found = CliRunner().invoke(main.app, ["matrix", "absent.yaml"])
    assert "`retro matrix` is `retro sweep` now" in found.output
    assert "absent.yaml" in str(found.exception)


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in help_of()


def test_an_option_of_an_earlier_version_is_accepted_with_a_line() -> None:
    runner = CliRunner()
    old = runner.invoke(main.app, ["plan", "--size", "843m", "--utilisation=0.3", "--json"])
    new = runner.invoke(main.app, ["plan", "--size", "843m", "--utilization=0.3", "--json"])
    assert (old.exit_code, new.exit_code) == (0, 0)
    assert "`--utilisation` is `--utilization` now" in old.stderr
    assert old.stdout == new.stdout


SETTING = re.compile(r"\b[a-z_]+\.[a-z_.]+=[^\s\"']+")


def test_every_setting_in_an_example_is_one() -> None:
    words = {word for command in COMMANDS.values() for word in SETTING.findall(command.epilog or "")}
    assert len(words) > 8
    for word in sorted(words):
        assert load_run_config(None, [word])
