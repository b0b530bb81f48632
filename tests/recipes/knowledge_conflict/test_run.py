"""The recipe on a small world of facts: quadrants as constructed, and what tuning on passages changes."""

from __future__ import annotations

import json
from pathlib import Path

from retro.recipes.base import RECIPES
from retro.run.config import RunConfig, load_run_config

RECIPE = RECIPES.find("knowledge_conflict", "recipe")


def config_of(folder: Path, name: str, steps: int, start_from: Path | None = None) -> RunConfig:
    """A run whose model is tuned on the lessons of that name."""
    train = "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32}"
    tuning = (
        f"{{steps: {steps}, micro_batch: 64, global_batch: 64, lr: 3.0e-3, schedule: cosine, warmup_steps: 20, "
        "evaluate_every: 100000, precision: float32}"
    )
    form = f"prompts: {folder}/texts.yaml, style: plain, contexts_in_prompt: 2, encoder: false"
    settings = {
        "run_dir": f"{folder}/{name}",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db.chunk_length": "8",
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 128, sequence_length: 24, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.1}",
        "train": train,
        "sft.data": f"{{{form}, sets: [{{name: lessons, path: {folder}/{name}.jsonl}}]}}",
        "sft.train": tuning,
        "generate": f"{{{form}, max_new_tokens: 2, batch_size: 50, precision: float32}}",
        "evaluate.bootstrap_samples": "200",
        "recipe.knowledge_conflict": json.dumps(
            {"sets": {"questions": f"{folder}/questions.jsonl", "passages": 2, "supporting_only": False}}
        ),
    }
    if start_from is not None:
        settings["sft.start_from"] = str(start_from)
    return load_run_config(None, [f"{key}={value}" for key, value in settings.items()])
