"""Steps of a recipe under a launcher: those that tune and answer are done together, the others need one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.artifacts import read_manifest
from retro.common.errors import ConfigError
from retro.recipes.base import run_recipe
from tests.parallel.launch import launch_module
from tests.recipes.tiny_recipe import Tiny
from tests.tiny_road import run_stages, small_config

SETTINGS = [
    "recipe={tiny: {teacher: {kind: script, function: 'tests.recipes.tiny_recipe:yes_to_gardens'}}}",
    "generate.settings=[with_passages]",
]
SPREAD = [*SETTINGS, "parallel={tensor: 2}"]


@pytest.mark.slow
def test_two_processes_tune_and_answer_together(tmp_path: Path) -> None:
    config = small_config(tmp_path, *SETTINGS)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain")
    run_recipe(Tiny(), config, "label")
    for step in ("learn", "answer"):
        launch_module(2, "tests.parallel.recipe_worker", str(tmp_path), step, *SPREAD)
    home = config.run_dir / "recipe_tiny"
    assert read_manifest(home / "learn", "tiny.learn").counts["steps"] == 4
    lines = (home / "answer" / "answers" / "with_passages.jsonl").read_text().splitlines()
    assert len(lines) == 10


@pytest.mark.parametrize("redo", [False, True])
def test_what_one_process_has_to_do_is_refused_under_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redo: bool
) -> None:
    config = small_config(tmp_path, *SETTINGS)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    needs = (
        "--redo = True: needs one process" if redo else "STEP = 'label': needs one process: run `retro recipe tiny run"
    )
    with pytest.raises(ConfigError, match=needs):
        run_recipe(Tiny(), config, "label", redo=redo)
