"""A run of the recipe in the world of two-hop facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from retro.recipes.base import RECIPES
from retro.recipes.multi_hop.item_files import write_items
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.recipes.multi_hop import fact_world as world

RECIPE = RECIPES.find("multi_hop", "recipe")
EMBEDDER = {"kind": "hashing", "dimension": 4096}


def config_of(folder: Path, *, steps: int, items: int, questions: int, export: bool = False, **tune: Any) -> RunConfig:
    """A run in the world, its files written, its stages made."""
    known = world.facts(9)
    world.write_tokenizer(folder / "tokenizer.json")
    world.write_corpus(folder / "corpus.jsonl", known)
    write_items(folder / "items.jsonl", world.items(items, 3))
    (folder / "questions.json").write_text(json.dumps(world.questions(known, questions, 7)))
    (folder / "texts.yaml").write_text(yaml.safe_dump(world.TEXTS))
    train = {"micro_batch": 32, "global_batch": 32, "lr": 3e-3, "schedule": "cosine", "precision": "float32"}
    train |= {"evaluate_every": 10_000, "steps": steps, "warmup_steps": steps // 20}
    recipe = {
        "training": {"items": f"{folder}/items.jsonl", "export": export, "tune": {"train": train, **tune}},
        "answer": {
            "questions": f"{folder}/questions.json",
            "count": None,
            "texts": f"{folder}/texts.yaml",
            "retriever": {"kind": "contexts", "n": 1, "embedder": EMBEDDER},
            "model": {"max_new_tokens": 40},
            "batch_size": 8,
        },
    }
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db": "{unit: row, window: 16}",
        "index.embedder": json.dumps(EMBEDDER),
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 256, sequence_length: 128, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.1}",
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32}",
        "generate": "{precision: float32}",
        "recipe.multi_hop": json.dumps(recipe),
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    for name in ("corpus", "db", "index", "pretrain"):
        stage(name).run(config)
    return config


def small_run(folder: Path) -> RunConfig:
    """One of so few steps of training that nothing is learned."""
    return config_of(folder, steps=3, items=64, questions=10, export=True)


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_multi_hop"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def other(made: RunConfig, run_dir: Path, **answer: Any) -> RunConfig:
    """A run that answers with the model that is there."""
    settings = read_settings(made)
    model = {"path": str(home(made) / "model" / "sft"), "max_new_tokens": 40} | answer.pop("model", {})
    settings = {"answer": settings["answer"] | {"model": model} | answer}
    return made.model_copy(update={"run_dir": run_dir, "recipe": {"multi_hop": settings}})


def read_settings(made: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(made.recipe["multi_hop"]))
    return found


def exact(config: RunConfig, setting: str = "answer") -> float:
    scores = read(home(config) / "scores" / "evaluate" / "scores.json")
    return float(scores["settings"][setting]["exact_match"]["mean"])
