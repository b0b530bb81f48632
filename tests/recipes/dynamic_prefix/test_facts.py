"""In a world of facts: a frozen model that knows nothing reads held-out facts in its prefix, among distractors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.qa.question_files import read_questions
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.dynamic_prefix.config import PrefixTrainConfig
from retro.recipes.dynamic_prefix.training.loading import PrefixModel, load_prefix_model
from retro.recipes.dynamic_prefix.training.parts import prefix_inputs
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL, PrefixSource, encode_samples
from retro.run.config import load_run_config
from retro.tokenizers.tokenizer import load_tokenizer
from tests.recipes.dynamic_prefix import fact_world

TRAIN: dict[str, Any] = {
    "steps": 700, "micro_batch": 32, "global_batch": 32, "lr": 4e-3, "weight_decay": 0.0, "beta2": 0.98,
    "precision": "float32", "train_only": "modules", "retrieval_rates": {"gate_lr_factor": 5.0}, "save_every": 700,
    "evaluate_every": 700,
}  # fmt: skip
DOCUMENTS = 3


def settings(folder: Path) -> dict[str, Any]:
    """Of the recipe, over the model and the questions in a folder."""
    fact_world.write_questions(
        folder / "train.jsonl", fact_world.questions(6000, 1, held_out=False, documents=DOCUMENTS)
    )
    return {
        "data": {"train": str(folder / "train.jsonl")},
        "prefix": {
            "documents": DOCUMENTS,
            "max_document_tokens": 8,
            "encoder": {"layers": 1, "hidden_size": 64, "heads": 4, "vocabulary": "model"},
        },
        "train": {"base": str(folder / "model"), "question": fact_world.TEMPLATE, "train": TRAIN},
    }


@torch.no_grad()
def exact_matches(opened: PrefixModel, folder: Path, *, documents: int, count: int = 300) -> float:
    """Share of held-out questions of which every token of the answer is the most likely one."""
    items = fact_world.questions(count, 77, held_out=True, documents=DOCUMENTS)
    questions = read_questions(fact_world.write_questions(folder / "held_out.jsonl", items))
    tokenizer = load_tokenizer(folder / "tokenizer")
    train = PrefixTrainConfig(question=fact_world.TEMPLATE)
    samples, _ = encode_samples(
        questions, tokenizer, opened.encoder.tokenizer, train, most_documents=documents, length=20
    )
    source = PrefixSource(samples, end=tokenizer.eod, documents=DOCUMENTS)
    batch = source.fetch(torch.arange(count).numpy())
    read = prefix_inputs(opened.model, *(torch.from_numpy(batch.further[name]) for name in (IDS, REAL)))
    said_BS = opened.model(torch.from_numpy(batch.tokens_BS), prefix=read).argmax(dim=-1).numpy()
    right_B = ((said_BS == batch.labels_BS) | (batch.loss_mask_BS == 0)).all(axis=1)
    return float(right_B.mean())


@pytest.mark.slow
def test_held_out_facts_are_read_among_distractors_and_not_known_without(tmp_path: Path) -> None:
    fact_world.train_model(tmp_path)
    config = load_run_config(
        None, [f"run_dir={tmp_path}/run", f"recipe.dynamic_prefix={json.dumps(settings(tmp_path))}"]
    )
    run_recipe(RECIPES.find("dynamic_prefix", "recipe"), config)
    opened = load_prefix_model(tmp_path / "run" / "recipe_dynamic_prefix" / "train")
    assert exact_matches(opened, tmp_path, documents=DOCUMENTS) >= 0.9
    assert exact_matches(opened, tmp_path, documents=0) <= 0.1
