"""The recipe's first two steps alone, and files for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retro.common.config import StageConfig
from retro.recipes.base import run_recipe
from retro.recipes.dense_retriever.data.build import PAIRS
from retro.recipes.dense_retriever.data.data_config import DataConfig
from retro.recipes.dense_retriever.data.segments import SEGMENTS
from retro.recipes.dense_retriever.data.segments_config import SegmentsConfig
from retro.run.config import RunConfig


class StepsConfig(StageConfig):
    """The sections of these steps."""

    data: DataConfig = DataConfig()
    """Pairs."""
    segments: SegmentsConfig = SegmentsConfig()
    """Segments."""


class DataSteps:
    """The recipe."""

    name = "dense_retriever"
    summary = "Pairs and segments"
    config = StepsConfig
    special_tokens: tuple[str, ...] = ()
    steps = (PAIRS, SEGMENTS)


def write_lines(path: Path, items: Iterable[Mapping[str, Any]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in items), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The same back."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_step(run_dir: Path, step: str, run: Mapping[str, Any] | None = None, **sections: Any) -> Path:
    """Run one step; gives its folder.

    Args:
        run_dir: Of the run.
        step: Its name.
        run: Other sections of the run.
        sections: Of the recipe.
    """
    config = RunConfig(run_dir=run_dir, recipe={"dense_retriever": sections}, **(run or {}))
    run_recipe(DataSteps(), config, step)
    return run_dir / "recipe_dense_retriever" / step


def manifest(folder: Path) -> dict[str, Any]:
    """What a step said of its result."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found
