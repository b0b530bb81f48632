"""The proof that searching while generating is worth something: questions that no single search can answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.flow.two_hops import CHUNK_LENGTH, VALUES, World, write_lessons, write_tokenizer

ASKED = 200
CHANCE = 1 / VALUES


def config_of(folder: Path) -> RunConfig:
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db.chunk_length": CHUNK_LENGTH,
        # Wide enough that no two words fall on one place.
        "index.embedder": "{kind: hashing, dimension: 8192}",
        "neighbors.saved": 2,
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 256, sequence_length: 16, "
        "first_cross_attention: 2, cross_attention_every: 1, vocabulary_multiple: 1, init_std: 0.1}",
        # Tuning needs a checkpoint to start from; what two steps on the facts leave in it is nothing.
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6}",
        "sft.data": f"{{style: plain, contexts_in_prompt: 0, sets: [{{name: lessons, path: {folder}/lessons.json}}]}}",
        "sft.train": "{steps: 320, micro_batch: 64, global_batch: 64, lr: 3.0e-3, schedule: cosine, warmup_steps: 40}",
        "generate": f"{{questions: [{folder}/questions.json], style: plain, contexts_in_prompt: 0, max_new_tokens: 6, "
        "batch_size: 50, settings: [live_retrieval, retrieved_passages, closed_book]}",
    }
    return load_run_config(None, [f"{name}={value}" for name, value in settings.items()])


def answers(config: RunConfig, setting: str) -> dict[str, str]:
    lines = (stage("generate").path(config) / f"{setting}.jsonl").read_text().splitlines()
    return {line["id"]: line["prediction"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_a_search_with_what_was_said_so_far_finds_what_no_search_with_the_question_can(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    write_lessons(tmp_path / "lessons.json", 20_480, seed=5)
    world = World.draw(1)
    world.write_corpus(tmp_path / "corpus.jsonl")
    world.write_questions(tmp_path / "questions.json", ASKED)
    config = config_of(tmp_path)
    for name in ("corpus", "db", "index", "neighbors", "pretrain", "sft", "generate", "evaluate"):
        stage(name).run(config)

    scores = json.loads((stage("evaluate").path(config) / "scores.json").read_text())["settings"]
    exact = {setting: found["exact_match"]["mean"] for setting, found in scores.items()}
    assert exact["live_retrieval"] >= 0.9
    assert exact["retrieved_passages"] <= 3 * CHANCE
    assert exact["closed_book"] <= CHANCE

    # One search gets the first hop right and has to guess the second.
    golds = {line["id"]: line["answers"][0] for line in json.loads((tmp_path / "questions.json").read_text())}
    once = answers(config, "retrieved_passages")
    first_hop = [once[name].split()[:4] == gold.split()[:4] for name, gold in golds.items()]
    assert sum(first_hop) / len(first_hop) >= 0.9
