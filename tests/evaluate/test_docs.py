from __future__ import annotations

import re
from pathlib import Path

import yaml

from retro.cli.scores import tasks_markdown
from retro.generate.config import Setting
from retro.qa.metrics.registry import METRICS
from retro.qa.task import Layout, Task
from retro.sweep.config import SweepConfig

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]


def test_the_table_of_tasks_is_the_tasks() -> None:
    """To renew it: `retro tasks --markdown`."""
    table = PAGE.split("<!-- tasks: retro tasks --markdown -->\n")[1].split("<!-- end of tasks -->")[0]
    assert table == tasks_markdown()


def test_every_metric_and_setting_is_explained() -> None:
    metrics = PAGE.split("## Metrics")[1].split("## Settings side by side")[0]
    assert all(f"`{name}`" in metrics for name in METRICS.built_in)
    settings = PAGE.split("## Settings side by side")[1].split("## Comparing")[0]
    assert all(f"`{name}`" in settings for name in Setting.__args__)  # type: ignore[attr-defined]


def test_the_examples_are_tasks_layouts_and_a_matrix() -> None:
    own, layouts, matrix = BLOCKS
    assert set(own) - {"extends"} <= set(Task.model_fields)
    assert [Layout(**one).items for one in layouts["layouts"]] == ["data[].paragraphs[].qas[]"]
    assert set(SweepConfig(**matrix).checkpoints) == {"retro", "gpt", "other"}
