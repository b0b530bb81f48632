"""`retro recipe dynamic_prefix ablate CONFIG.yaml [section.setting=value]...`: variants of a run in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import ConfigError, DataError
from retro.common.terminal import output
from retro.recipes.base import RECIPES, recipe_path, require_recipes
from retro.recipes.dynamic_prefix.ablation.run import ABLATION, run_ablation
from retro.recipes.dynamic_prefix.ablation.tables import MARKDOWN, ablation_table, failures_table
from retro.run.config import load_run_config

RECIPE = "dynamic_prefix"


def run_ablate(words: Sequence[str]) -> None:
    """The command.

    Args:
        words: A run's YAML file, and settings.

    Raises:
        ConfigError: No file is given, or a variant's settings cannot work.
        DataError: A variant failed; all others were run.
    """
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        raise ConfigError("CONFIG", files, f"needs one run's YAML file: retro recipe {RECIPE} ablate run.yaml")
    config = load_run_config(Path(files[0]), [word for word in words if "=" in word])
    require_recipes(config)
    recipe = RECIPES.find(RECIPE, "recipe")
    rows = run_ablation(recipe, config)
    home = recipe_path(config, recipe) / ABLATION
    output.table(ablation_table(rows), *([failures_table(rows)] if any(one.error for one in rows) else []))
    output.say(str(home / MARKDOWN))
    failed = [one for one in rows if one.error]
    if failed:
        problem = f"{len(failed)} of {len(rows)} variants failed, {failed[0].name} first: {failed[0].error}"
        raise DataError(home / MARKDOWN, problem, "Fix what is named and run the command again; finished ones are kept")
