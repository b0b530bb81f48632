"""Chunks embedded per CPU-second, and whether their neighbors stay: ours beside sentence-transformers' default.

The peer is `SentenceTransformer(folder).encode(texts)` with nothing set: float32, batches of 32. Ours is the embedder
that `retro index` builds under its default settings. Both get the same texts, those of chunks as the index stage reads
them, slice after slice in alternating rounds; CPU time counts all threads, because a busy machine changes wall time
more than CPU time. Neighbors: for every chunk its two nearest others by exact inner product, among all chunks of the
benchmark, under our vectors and under float32 ones of the same model.

Run:    python -m benchmarks.embedding --texts documents.jsonl [--chunks 8000] [--rounds 8]
Writes: docs/results/embedding.md and .json, unless --dry.
"""

# Dims in this file. N chunks   D dimension   K nearest neighbors

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import machine, median, write
from retro.common.precision import choose
from retro.common.pretrained import device
from retro.corpus import build as corpus_build
from retro.corpus.config import CorpusConfig
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.index.config import BUILT_IN_MODEL, EmbedderConfig
from retro.index.embeddings import chunk_texts, sample_rows
from retro.index.neural import SentenceTransformersEmbedder
from retro.index.weights import find_model

Float32 = NDArray[np.float32]
NEIGHBORS = 2


def texts_of_chunks(jsonl: Path, chunks: int, folder: Path) -> list[str]:
    """Texts of a uniform sample of the chunks that `corpus` and `db` make of a file of documents."""
    source = {"name": "text", "path": jsonl}
    corpus_build.run(CorpusConfig(sources=(source,), tokenizer={"vocab_size": 8000}), folder / "1_corpus")
    db_build.run(DbConfig(), folder / "1_corpus", folder / "2_db")
    db = ChunkDatabase.open(folder / "2_db", Corpus.open(folder / "1_corpus"))
    rows = np.random.default_rng(0).permutation(sample_rows(range(db.rows), chunks, 0))
    # Each text once: copies have equal scores, and which of them counts as nearest is chance.
    return list(dict.fromkeys(text for text in chunk_texts(db, rows) if text))


def measure(embed: Callable[[Sequence[str]], Float32], texts: Sequence[str]) -> tuple[Float32, float, float]:
    """The vectors, CPU-seconds of all threads and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = embed(texts)
    return vectors, time.process_time() - cpu, time.perf_counter() - wall


def nearest(vectors_ND: Float32) -> NDArray[np.int64]:
    """[N, K] rows of each row's nearest others, by exact inner product."""
    found = []
    for start in range(0, len(vectors_ND), 1000):
        scores = vectors_ND[start : start + 1000] @ vectors_ND.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        found.append(np.argpartition(-scores, NEIGHBORS, axis=1)[:, :NEIGHBORS])
    return np.concatenate(found)


def agreement(one_NK: NDArray[np.int64], other_NK: NDArray[np.int64]) -> float:
    """Share of `one`'s neighbors that are among `other`'s."""
    return float((one_NK[:, :, None] == other_NK[:, None, :]).any(axis=2).mean())


def compare(texts: list[str], rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Rates of both in each round, and how many neighbors stay."""
    from sentence_transformers import SentenceTransformer

    config = EmbedderConfig(kind="sentence_transformers", model=BUILT_IN_MODEL, **settings)
    ours = SentenceTransformersEmbedder(config)
    peer = SentenceTransformer(str(find_model(config)), device=device())
    calls: dict[str, Callable[[Sequence[str]], Float32]] = {
        "ours": ours.embed_passages,
        "peer": lambda some: np.asarray(peer.encode(list(some), show_progress_bar=False)),
    }
    vectors: dict[str, list[Float32]] = {name: [] for name in calls}
    rates: dict[str, list[float]] = {f"{name}_{clock}": [] for name in calls for clock in ("cpu", "wall")}
    for embed in calls.values():
        embed(texts[:64])
    for part in np.array_split(np.arange(len(texts)), rounds):
        some = [texts[n] for n in part]
        for name, embed in calls.items():
            found, cpu, wall = measure(embed, some)
            vectors[name].append(found)
            rates[f"{name}_cpu"].append(len(some) / cpu)
            rates[f"{name}_wall"].append(len(some) / wall)
    near = {name: nearest(np.concatenate(parts)) for name, parts in vectors.items()}
    return {
        "chunks": len(texts), "rounds": rounds, "dtype": choose(config.precision).precision, "device": device(),
        "rates": rates, "same_top_2": agreement(near["peer"], near["ours"]),
        "ratio_cpu": median([a / b for a, b in zip(rates["ours_cpu"], rates["peer_cpu"], strict=True)]),
        "ratio_wall": median([a / b for a, b in zip(rates["ours_wall"], rates["peer_wall"], strict=True)]),
    }  # fmt: skip


def page(numbers: dict[str, Any]) -> str:
    """The Markdown page."""
    rates = {name: median(values) for name, values in numbers["rates"].items()}
    ours = f"{rates['ours_cpu']:.0f} | {rates['ours_wall']:.0f} | {numbers['same_top_2']:.4f}"
    return f"""# Embedding

Machine: {numbers["machine"]}. Shared with other work: read the ratios, which are medians of {numbers["rounds"]}
alternating rounds. {numbers["chunks"]:,} different chunks of 64 tokens of real text, all-MiniLM-L6-v2.
Made by `benchmarks/embedding.py`.

| | chunks per CPU-second | chunks/s | same two nearest neighbors as float32 |
|---|---:|---:|---:|
| sentence-transformers, its defaults (float32) | {rates["peer_cpu"]:.0f} | {rates["peer_wall"]:.0f} | 1 |
| `retro index` ({numbers["dtype"]}) | {ours} |
| ratio | {numbers["ratio_cpu"]:.2f} | {numbers["ratio_wall"]:.2f} | |
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="documents, .jsonl or any folder the corpus reads")
    parser.add_argument("--chunks", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-tokens", type=int, default=EmbedderConfig().batch_tokens)
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        texts = texts_of_chunks(options.texts, options.chunks, Path(folder))
    numbers = compare(texts, options.rounds, {"batch_tokens": options.batch_tokens})
    numbers["machine"] = machine("cpu" if device() == "cpu" else "cuda")
    print(page(numbers))
    if not options.dry:
        print(write("embedding", page(numbers), numbers))


if __name__ == "__main__":
    main()
