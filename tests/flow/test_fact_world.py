"""The proof that retrieval is used: facts that only the database holds are answered, and another database, or the
same one with its documents replaced, answers otherwise.

The model is taught to read on questions whose values are drawn again each time, so its weights can hold none. The
facts it is then asked were in no training text; passages come from the run's own index.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import database_home, stage
from retro.updates.change import replace_documents
from tests.flow.world import VALUES, World, write_lessons, write_tokenizer

ASKED = 200
# Chance is 1/16. A model that reads without understanding which passage fits gets 1/2: both name the entity.
CHANCE = 1 / VALUES


def config_of(folder: Path, name: str, *overrides: str) -> RunConfig:
    settings = {
        "run_dir": f"{folder}/{name}",
        "corpus.sources": f"[{{name: facts, path: {folder}/{name}.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db.chunk_length": 8,
        # Wide enough that no two entities fall on one place: then both passages name the entity that was asked for.
        "index.embedder": "{kind: hashing, dimension: 8192}",
        "neighbors.saved": 2,
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 256, sequence_length: 16, "
        "first_cross_attention: 2, cross_attention_every: 1, vocabulary_multiple: 1, init_std: 0.1}",
        # Tuning needs a checkpoint to start from; what two steps on the facts leave in it is nothing.
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6}",
        "sft.data": f"{{style: plain, contexts_in_prompt: 0, sets: [{{name: lessons, path: {folder}/lessons.json}}]}}",
        "sft.train": "{steps: 160, micro_batch: 64, global_batch: 64, lr: 3.0e-3, schedule: cosine, warmup_steps: 20}",
        "generate": f"{{questions: [{folder}/{name}_questions.json], style: plain, contexts_in_prompt: 0, "
        "passages_from: retriever, max_new_tokens: 2, batch_size: 50}",
    }
    return load_run_config(None, [f"{name}={value}" for name, value in settings.items()] + list(overrides))


def exact_match(config: RunConfig) -> dict[str, float]:
    """Score of each setting, after answering and evaluating."""
    for name in ("generate", "evaluate"):
        stage(name).run(config)
    scores = json.loads((stage("evaluate").path(config) / "scores.json").read_text())
    return {setting: found["exact_match"]["mean"] for setting, found in scores["settings"].items()}


def predictions(config: RunConfig) -> dict[str, str]:
    lines = (stage("generate").path(config) / "with_passages.jsonl").read_text().splitlines()
    return {line["id"]: line["prediction"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_held_out_facts_are_answered_from_the_database_and_swapping_it_swaps_the_answers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    write_lessons(tmp_path / "lessons.json", 10_240, seed=5)
    worlds = {"first": World.draw(1), "second": World.draw(2)}
    for name, world in worlds.items():
        world.write_corpus(tmp_path / f"{name}.jsonl")
        world.write_questions(tmp_path / f"{name}_questions.json", slice(0, ASKED))

    first = config_of(tmp_path, "first")
    for name in ("corpus", "db", "index", "neighbors", "pretrain", "sft"):
        stage(name).run(first)
    scores = exact_match(first)
    assert scores["with_passages"] >= 0.9
    assert scores["closed_book"] <= 3 * CHANCE
    assert scores["shuffled_passages"] <= 3 * CHANCE

    # The same weights over another database: one setting of the same run. The second run trains nothing.
    for name in ("corpus", "db", "index"):
        stage(name).run(config_of(tmp_path, "second"))
    asked = f"generate.questions=[{tmp_path}/second_questions.json]"
    swapped = config_of(tmp_path, "first", f"database.run_dir={tmp_path}/second", asked, "generate.name=swapped")
    assert exact_match(swapped)["with_passages"] >= 0.9
    assert share_that_followed(first, swapped, worlds) >= 0.85

    # And over its own database once every fact in it is replaced.
    replace_documents(database_home(first), tmp_path / "second.jsonl", source="facts")
    replaced = config_of(tmp_path, "first", asked, "generate.name=replaced")
    assert exact_match(replaced)["with_passages"] >= 0.9
    assert share_that_followed(first, replaced, worlds) >= 0.85


def share_that_followed(first: RunConfig, second: RunConfig, worlds: dict[str, World]) -> float:
    """Of the facts in which two worlds differ, the share that is answered as each of them has it."""
    before, after = predictions(first), predictions(second)
    truths = [{f"{e} {r}": v for e, r, v in worlds[name].facts} for name in ("first", "second")]
    differing = [fact for fact in before if truths[0][fact] != truths[1][fact]]
    assert len(differing) > ASKED / 2
    followed = [before[fact] == truths[0][fact] and after[fact] == truths[1][fact] for fact in differing]
    return sum(followed) / len(followed)
