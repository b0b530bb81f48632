"""A small world from files to scores: towns with a mayor each, questions about them, and a run of all steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retro.run.config import RunConfig, load_run_config
from tests.recipes.dense_retriever import beir_folder
from tests.recipes.passages.world import HASHING

TOWNS = 60
TINY = {"hidden": 32, "layers": 1, "heads": 2, "vocabulary": 500, "max_tokens": 32, "dropout": 0.0}


def text_of(number: int) -> str:
    """The document of a town; longer than one window of 12 words."""
    return (
        f"In town{number} the mayor is person{number} and the river is long. "
        f"Each year in town{number} a market is held near bridge{number}."
    )


def write_files(folder: Path) -> None:
    """Documents, pairs, further questions, and a BEIR folder."""
    towns = range(TOWNS)
    documents = [{"id": f"d{number}", "title": f"Town {number}", "text": text_of(number)} for number in towns]
    pairs = [
        {
            "id": f"q{number}",
            "question": f"Who is mayor of town{number}?",
            "document": f"d{number}",
            "positive": {"title": f"Town {number}", "text": text_of(number).partition(". ")[0] + "."},
            "answers": [f"person{number}"],
        }
        for number in towns
    ]
    asked = [{"question": f"What is near bridge in town{number}?", "answers": [f"bridge{number}"]} for number in (1, 2)]
    for name, items in (("documents", documents), ("pairs", pairs), ("questions", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    beir_folder.write(folder / "cities")


def recipe_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """The section of the recipe."""
    evaluate = {
        "retrievers": [
            {"name": "tuned", "kind": "tuned"},
            {"name": "hashed", "kind": "embedder", "embedder": HASHING},
            {"name": "bm25", "kind": "bm25"},
            {"name": "hybrid", "kind": "hybrid", "of": ["tuned", "bm25"]},
        ],
        "questions": f"{folder}/questions.jsonl",
        "beir": [{"path": f"{folder}/cities"}],
        "at": [1, 5, 20],
        "questions_per_block": 4,
    }
    start = {"model": None, "tiny": TINY, "max_tokens": 32}
    return {
        "data": {"sources": [{"path": f"{folder}/pairs.jsonl"}], "valid": 0.2},
        "segments": {
            "sources": [{"name": "towns", "path": f"{folder}/documents.jsonl"}], "window": 12, "step": 6,
        },
        "train": {"start": start, "batch_size": 8, "steps": 6, "evaluate_every": 2, "checkpoint_every": 2,
                  "precision": "float32", "collapse": 0.0},
        "embed": {"passages_per_block": 50, "passages_per_shard": 90, "precision": "float32"},
        "evaluate": evaluate,
    } | changes  # fmt: skip


def config_of(folder: Path, run: str = "run", **changes: Any) -> RunConfig:
    """A run in the world, whose files are written unless they are."""
    if not (folder / "documents.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_files(folder)
    recipe = json.dumps(recipe_settings(folder, **changes))
    return load_run_config(None, [f"run_dir={folder}/{run}", f"recipe.dense_retriever={recipe}"])
