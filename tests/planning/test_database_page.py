"""docs/plan_db.md: every number in its tables is its formula worked out, and what the planner says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from retro.planning import published
from retro.planning.database import EMBEDDERS

PAGE = (Path(__file__).parents[2] / "docs" / "plan_db.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<formula>[0-9e .*/+()-]+)` \| (?P<value>[0-9.,]+) \|$", re.MULTILINE)
ROWS = [(row["name"], row["formula"], float(row["value"].replace(",", ""))) for row in ROW.finditer(PAGE)]

PLAN = published.published_plan()

# What the planner says of each row, in the order of the page.
PLANNED: list[tuple[str, Callable[[], float]]] = [
    ("chunks", lambda: PLAN.rows),
    ("token files (.bin)", lambda: PLAN.disk["token files (.bin)"]),
    ("where documents begin", lambda: PLAN.disk["where documents begin (.idx, documents.h5)"]),
    ("chunk database", lambda: PLAN.disk["chunk database (db.h5)"]),
    ("embeddings, fp16", lambda: PLAN.disk["embeddings, fp16"]),
    ("neighbors", lambda: PLAN.disk["neighbors"]),
    ("codes", lambda: PLAN.index_bytes.codes),
    ("ids", lambda: PLAN.index_bytes.ids),
    ("centroids", lambda: PLAN.index_bytes.centroids),
    ("graph over the centroids", lambda: PLAN.index_bytes.coarse_graph),
    ("rotation and codebooks", lambda: PLAN.index_bytes.codebooks),
    ("all, headers with it", lambda: PLAN.index_bytes.total),
    ("index, lists mapped", lambda: PLAN.memory["searching, lists mapped from disk"]),
    ("training", lambda: PLAN.memory["training, sample in float32"]),
    ("FLOPs of a chunk, BERT-large", lambda: EMBEDDERS["bert-large"].flops(64)),
    ("FLOPs of a chunk, MiniLM-L6", lambda: EMBEDDERS["minilm-l6"].flops(64)),
    ("share of an A100's 312 TFLOP/s at 6.22 million chunks an hour", published.embedding_utilization),
    (
        "A100-hours of embedding",
        lambda: PLAN.embedding_flops / (published.embedding_utilization() * published.A100_BF16) / 3600,
    ),
    ("FLOPs of clustering", lambda: PLAN.training_flops),
    ("FLOP/s of each of 8 GPUs to be done in 4 h", published.training_speed),
    ("bytes of codes that a query reads", lambda: PLAN.searched_bytes or 0.0),
    ("hours of queries at 4 ms", lambda: PLAN.queries * published.QUERY_SECONDS / 3600),
]


def test_every_row_of_the_page_is_checked() -> None:
    assert [name for name, _, _ in ROWS] == [name for name, _ in PLANNED]


@pytest.mark.parametrize(("row", "planned"), list(zip(ROWS, PLANNED, strict=True)), ids=[name for name, _ in PLANNED])
def test_a_number_of_the_page_is_its_formula_and_the_planners(
    row: tuple[str, str, float], planned: tuple[str, Callable[[], float]]
) -> None:
    _, formula, value = row
    worked_out = float(eval(formula))  # digits and operators of our own page: see ROW
    # Whole numbers are printed in full, others to four digits.
    assert value == pytest.approx(worked_out, rel=1e-12 if value > 1e12 else 1e-9 if value > 1e4 else 2e-4)
    assert planned[1]() == pytest.approx(worked_out, rel=1e-9 if value > 1e4 else 2e-5)


def test_the_page_says_where_the_published_figures_disagree() -> None:
    disagree = [row.what for row in published.compare() if not row.agrees]
    assert disagree == [
        "memory of the index",
        "training, memory of the sample",
        "training, TFLOP/s of each of 8 GPUs",
    ]
    for figure in ("1.37 TB", "0.76 TB", "0.38 TB", "2.77 TB", "56 TFLOP/s"):
        assert figure in PAGE
