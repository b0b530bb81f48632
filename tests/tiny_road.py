"""A run directory with its first four stages made from a small corpus: for tests of what comes after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage

TOPICS = ("river", "engine", "garden", "planet", "market", "island")
SMALL_MODEL = (
    "{layers: 2, hidden_size: 32, heads: 4, query_groups: 4, ffn_hidden_size: 64, sequence_length: 64, "
    "first_cross_attention: 1, cross_attention_every: 1, encoder_layers: 1}"
)


def write_corpus(path: Path, *, documents: int = 60, seed: int = 0) -> None:
    """Documents about a topic each, so that neighbors are about the same topic."""
    random = np.random.default_rng(seed)
    words = {topic: [f"{topic}{i}" for i in range(12)] for topic in TOPICS}
    lines = []
    for number in range(documents):
        topic = TOPICS[number % len(TOPICS)]
        text = " ".join(str(word) for word in random.choice(words[topic], size=int(random.integers(40, 90))))
        lines.append(json.dumps({"id": f"{topic}-{number}", "title": topic, "text": text}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_questions(path: Path, *, count: int, seed: int = 0) -> None:
    """Questions whose answer is the name of a topic."""
    random = np.random.default_rng(seed)
    items = []
    for number in range(count):
        topic = TOPICS[int(random.integers(len(TOPICS)))]
        asked = " ".join(f"{topic}{i}" for i in random.integers(12, size=3))
        items.append({"id": str(number), "question": f"{asked}", "answers": [topic], "document_ids": [f"{topic}-0"]})
    path.write_text(json.dumps(items), encoding="utf-8")


def small_config(folder: Path, *overrides: str, run: str = "run", write: bool = True) -> RunConfig:
    """A run over the corpus in `folder`, small enough for a test. The corpus is written there, unless it is."""
    if write:
        write_corpus(folder / "text.jsonl")
        write_questions(folder / "train.json", count=40)
        write_questions(folder / "test.json", count=10, seed=1)
    settings: dict[str, Any] = {
        "run_dir": folder / run,
        "corpus.sources": f"[{{name: text, path: {folder}/text.jsonl}}]",
        "corpus.tokenizer.vocab_size": 400,
        "corpus.split": "[0.8, 0.1, 0.1]",
        "db": "{chunk_length: 16, documents_per_block: 20}",
        "index": "{embedder: {kind: hashing, dimension: 128}, chunks_per_block: 100}",
        "neighbors": "{saved: 3, queries_per_block: 100}",
        "model": SMALL_MODEL,
        "train": "{steps: 6, micro_batch: 4, global_batch: 4, warmup_steps: 1, evaluate_every: 3, save_every: 2}",
        "perplexity.micro_batch": 4,
        "sft.data": f"{{style: plain, passages_from: retriever, sets: [{{name: topics, path: {folder}/train.json}}]}}",
        "sft.train": "{steps: 4, micro_batch: 4, global_batch: 4, lr: 1.0e-3, save_every: 2}",
        "generate": f"{{style: plain, passages_from: retriever, questions: [{folder}/test.json], max_new_tokens: 4, "
        "batch_size: 4}",
    }
    return load_run_config(None, [f"{name}={value}" for name, value in settings.items()] + list(overrides))


def run_stages(config: RunConfig, *names: str) -> None:
    """Run some stages in order."""
    for name in names:
        stage(name).run(config)
