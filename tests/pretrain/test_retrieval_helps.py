"""Invariant 7: where the database holds what comes next, perplexity with real neighbors is below that with shuffled
ones and below that of a GPT trained on the same tokens.

Every text is in the corpus twice, in two documents. A chunk's own document is never its neighbor, so what there is
to find is the twin, and its continuation is the next chunk. Texts are random words: without the twin there is nothing
to predict them from.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from retro.run.config import load_run_config
from tests.tiny_road import run_stages

WORDS, TEXTS = 32, 600


def write_twins(folder: Path) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in random.integers(WORDS, size=15)) for _ in range(TEXTS)]
    lines = [json.dumps({"id": f"{n}{twin}", "text": text}) for twin in "ab" for n, text in enumerate(texts)]
    (folder / "twins.jsonl").write_text("\n".join(lines) + "\n")
    vocabulary = {word: i for i, word in enumerate(["<|endoftext|>", "[UNK]", *(f"w{w}" for w in range(WORDS))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.slow
def test_real_neighbors_beat_shuffled_ones_and_a_gpt_of_the_same_tokens(tmp_path: Path) -> None:
    write_twins(tmp_path)
    settings = {
        "run_dir": tmp_path / "run",
        "corpus.sources": f"[{{name: twins, path: {tmp_path}/twins.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {tmp_path}/tokenizer.json}}",
        "corpus.split": "[0.9, 0.1, 0.0]",
        "db.chunk_length": 8,
        "index.embedder": "{kind: hashing, dimension: 2048}",
        "neighbors.saved": 1,
        "model": "{layers: 2, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 128, sequence_length: 32, "
        "neighbors: 1, first_cross_attention: 2, vocabulary_multiple: 1, init_std: 0.1, encoder_layers: 1}",
        "train": "{steps: 300, micro_batch: 32, global_batch: 32, lr: 4.0e-3, warmup_steps: 30, evaluate_every: 300, "
        "save_every: 300}",
        "pretrain.baselines": "[gpt]",
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity")
    table = json.loads((tmp_path / "run/5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    found = {f"{row['model']} {row['neighbors']}": row["perplexity"] for row in table}
    assert found["retro real"] < 0.8 * found["retro shuffled"]
    assert found["retro real"] < 0.8 * found["gpt -"]
