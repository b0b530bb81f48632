"""A run whose every text is in the corpus twice, in two documents: what is held out was mostly trained on."""

from __future__ import annotations

from pathlib import Path

from retro.run.config import RunConfig, load_run_config
from tests.pretrain.test_retrieval_helps import write_twins


def twin_config(folder: Path, *overrides: str) -> RunConfig:
    """Texts of 15 random words: two chunks of 8 tokens each, the last token an end of document."""
    write_twins(folder)
    settings = {
        "run_dir": folder / "run",
        "corpus.sources": f"[{{name: twins, path: {folder}/twins.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[0.9, 0.1, 0.0]",
        "db.chunk_length": 8,
        "index.embedder": "{kind: hashing, dimension: 2048}",
        "neighbors.saved": 2,
        "model": "{layers: 2, hidden_size: 32, heads: 2, query_groups: 2, ffn_hidden_size: 64, sequence_length: 32, "
        "neighbors: 1, first_cross_attention: 2, vocabulary_multiple: 1, encoder_layers: 1}",
        "train": "{steps: 2, micro_batch: 8, global_batch: 8, warmup_steps: 1, evaluate_every: 2, save_every: 2}",
        "pretrain.baselines": "[gpt]",
        "leakage": "{chunks_per_block: 100, tokens_per_block: 5000}",
    }
    return load_run_config(None, [f"{name}={value}" for name, value in settings.items()] + list(overrides))
