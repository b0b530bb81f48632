"""`retro recipe`: recipes that are installed, their settings and steps, and running them.

retro recipe list
retro recipe NAME show
retro recipe NAME run CONFIG.yaml [STEP] [section.setting=value]...
retro recipe NAME COMMAND ...          what the recipe itself offers, such as a comparison of two runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from retro.cli.options import AsJson, examples, read_arguments
from retro.common.errors import ConfigError
from retro.common.terminal import Table, output

if TYPE_CHECKING:
    from retro.recipes.base import Recipe

app = typer.Typer()
_VERBS = ("run", "show")


@app.command(epilog=examples("retro recipe list", "retro recipe NAME run run.yaml"))
def recipe(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="list | NAME run CONFIG.yaml [STEP] [section.setting=value]... | NAME show | NAME COMMAND ...",
            help="`list` all recipes; `show` one's settings and steps; `run` its steps in order, or one of them; or a "
            "command of its own, such as `knowledge_conflict compare RUN_A RUN_B`.",
        ),
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Remove the results of this step and the later ones first.")
    ] = False,
    until: Annotated[
        bool, typer.Option("--until", help="With a step: those before it that the settings ask for, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: what one paper adds to the pipeline, step by step; `retro recipe list` names them."""
    from retro.common.config import unknown_name
    from retro.recipes.base import RECIPES, run_recipe

    typed = words or ["list"]
    if typed == ["list"]:
        _list(as_json)
        return
    found = RECIPES.find(typed[0], "recipe")
    verb = typed[1] if len(typed) > 1 else ""
    commands: Mapping[str, Callable[[Sequence[str]], None]] = getattr(found, "commands", {})
    if verb in commands:
        commands[verb](typed[2:])
        return
    if verb not in _VERBS:
        known = (*commands, *_VERBS)
        raise ConfigError("recipe", verb or None, unknown_name(verb, known).replace("a setting", "run or show"))
    if verb == "show":
        _show(found, as_json)
        return
    steps = [word for word in typed[2:] if "=" not in word and not word.endswith((".yaml", ".yml"))]
    if len(steps) > 1:
        raise ConfigError("STEP", steps, "needs one step, or none for all")
    run_recipe(found, read_arguments([word for word in typed[2:] if word not in steps]), *steps, redo=redo, until=until)


def _list(as_json: bool) -> None:
    from retro.recipes.base import RECIPES

    found = [RECIPES.find(name, "recipe") for name in RECIPES]
    if as_json:
        output.json([{"name": one.name, "summary": one.summary, "from": RECIPES.provider(one.name)} for one in found])
    elif not found:
        output.say(
            "No recipe is installed. A package brings one by the entry point `retro.recipes`; see docs/extending.md"
        )
    else:
        table = Table(title="Recipes")
        for heading in ("recipe", "what it is", "from"):
            table.add_column(heading, whole=heading == "recipe")
        for one in found:
            table.add_row(one.name, one.summary, RECIPES.provider(one.name))
        output.table(table)


def _show(found: Recipe, as_json: bool) -> None:
    if as_json:
        steps = [
            {"name": one.name, "summary": one.summary, "needs": list(one.needed(found.config()))} for one in found.steps
        ]
        output.json({"name": found.name, "steps": steps, "settings": found.config.model_json_schema()})
        return
    steps_table, settings_table = Table(title=found.summary), Table(title=f"Settings, under recipe.{found.name}")
    for heading in ("step", "what it does", "needs"):
        steps_table.add_column(heading, whole=heading == "step")
    for one in found.steps:
        steps_table.add_row(one.name, one.summary, ", ".join(one.needed(found.config())))
    for heading in ("setting", "default", "what it is"):
        settings_table.add_column(heading, whole=heading == "setting")
    for row in _settings(found.config):
        settings_table.add_row(*row)
    output.table(steps_table, settings_table)


def _settings(kind: Any, prefix: str = "", package: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and description of every setting. Sections of the recipe's own package are gone into, also those
    that are absent by default and those of a list; of others, such as a training loop's, which other pages describe,
    there is one line."""
    from retro.common.config import setting_docs

    docs = setting_docs(kind)
    package = package or kind.__module__.rpartition(".")[0]
    for name, field in kind.model_fields.items():
        value = "needed" if field.is_required() else field.get_default(call_default_factory=True)
        kinds = [one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")]
        sections = [one for one in kinds if f"{one.__module__}.".startswith(f"{package}.")]
        many = bool(sections) and isinstance(value, tuple)
        shown = f"{len(value)} of these" if many else "" if hasattr(value, "model_fields") else str(value)
        yield f"{prefix}{name}", shown, docs.get(name, "")
        for section in sections:
            yield from _settings(section, f"{prefix}{name}{'[]' if many else ''}.", package)
