"""Ten million chunk embeddings through index and query: time, memory, bytes per vector, queries a second, recall.

The vectors are synthetic, with the structure of real ones: each is a real embedding moved along the differences of two
pairs of real near neighbors. They are written as float16 to a file that is mapped, as the index stage keeps them.
Random clusters would be far too easy for inverted lists.

Each phase is a process of its own, so that its peak of memory is its own, and leaves its numbers in the folder: a
phase that was done is not done again.

Run:    python -m benchmarks.ten_million --real vectors.npy --folder /somewhere [--vectors 10000000] [--factory ...]
        The default factory is the policy's for this size but for fewer lists, whose training fits two cores.
Writes: docs/results/ten_million.md and .json, unless --dry. The folder takes 840 bytes a vector.
"""

# Dims in this file. N vectors   D dimension   Q queries   K neighbors

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import machine, write
from retro.common.row_set import RowSet
from retro.index.embeddings import sample_rows
from retro.index.faiss_index import SearchSettings, add_vectors, load_index, save_index
from retro.index.index_choice import create_index
from retro.index.training import train_index
from retro.index.vector_index import VectorIndex

PHASES = ("vectors", "train", "add", "truth", "query")
FACTORY = "RR384,IVF8192_HNSW32,RaBitQ"
TRAIN_VECTORS = 320_000
QUERIES = 500
DEPTH = 10
SETTINGS = [(8, 10), (16, 10), (32, 10), (64, 10), (128, 10), (64, 4)]
"""Lists searched, and candidates ranked again per neighbor wanted."""
AT_ONCE = 100_000
STRENGTH = 0.7
"""Share of a pair's difference that a vector is moved by: nearest neighbors are then about as near as real ones."""


def near_pairs(real_ND: NDArray[np.float32], random: np.random.Generator, count: int = 50_000) -> NDArray[np.float32]:
    """[count, D] differences between real vectors and one of their ten nearest among a sample."""
    sample = real_ND[random.permutation(len(real_ND))[:20_000]]
    rows = random.integers(0, len(sample), count)
    near = np.empty((len(sample), 10), dtype=np.int64)
    for start in range(0, len(sample), 1000):
        scores = sample[start : start + 1000] @ sample.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        near[start : start + 1000] = np.argpartition(-scores, 10, axis=1)[:, :10]
    return np.asarray(sample[near[rows, random.integers(0, 10, count)]] - sample[rows])


def write_vectors(path: Path, real_ND: NDArray[np.float32], vectors: int, seed: int) -> None:
    """`vectors` synthetic ones, float16, of length 1."""
    random = np.random.default_rng(seed)
    moves = near_pairs(real_ND, random)
    temporary = path.with_suffix(".tmp")
    held = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(vectors, real_ND.shape[1]))
    for start in range(0, vectors, AT_ONCE):
        count = min(AT_ONCE, vectors - start)
        some = real_ND[random.integers(0, len(real_ND), count)]
        for _ in range(2):
            some += STRENGTH * moves[random.integers(0, len(moves), count)]
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        held[start : start + count] = some
    held.flush()
    temporary.rename(path)


def vectors(options: argparse.Namespace) -> dict[str, Any]:
    """Database and queries, the latter drawn again."""
    real = np.load(options.real).astype(np.float32)
    write_vectors(options.folder / "vectors.npy", real, options.vectors, seed=0)
    write_vectors(options.folder / "queries.npy", real, QUERIES, seed=1)
    return {"bytes_on_disk": (options.folder / "vectors.npy").stat().st_size}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """An index without vectors."""
    held = np.load(options.folder / "vectors.npy", mmap_mode="r")
    rows = sample_rows(range(len(held)), options.train_vectors, seed=0)
    index = create_index(options.factory, held.shape[1], len(rows))
    train_index(index, options.factory, held[rows], reproducible=False)
    save_index(index, options.folder / "trained.faiss")
    return {"train_vectors": len(rows)}


def add(options: argparse.Namespace) -> dict[str, Any]:
    """The filled index."""
    held = np.load(options.folder / "vectors.npy", mmap_mode="r")
    index = load_index(options.folder / "trained.faiss", 0, held.shape[1])
    add_vectors(index, held, reproducible=False)
    save_index(index, options.folder / "index.faiss")
    return {"bytes_per_vector": (options.folder / "index.faiss").stat().st_size / len(held)}


def truth(options: argparse.Namespace) -> dict[str, Any]:
    """[Q, K] true nearest rows, by comparing every query with every vector."""
    held = np.load(options.folder / "vectors.npy", mmap_mode="r")
    queries = np.load(options.folder / "queries.npy").astype(np.float32)
    best = np.full((len(queries), 0), 0, dtype=np.int64)
    best_scores = np.full(best.shape, 0, dtype=np.float32)
    for start in range(0, len(held), AT_ONCE):
        scores = queries @ held[start : start + AT_ONCE].astype(np.float32).T
        found = np.argpartition(-scores, DEPTH, axis=1)[:, :DEPTH]
        best_scores = np.concatenate([best_scores, np.take_along_axis(scores, found, 1)], axis=1)
        best = np.concatenate([best, found + start], axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :DEPTH]
        best, best_scores = np.take_along_axis(best, order, 1), np.take_along_axis(best_scores, order, 1)
    np.save(options.folder / "truth.npy", best)
    return {"queries": len(queries), "mean_score_of_nearest": float(best_scores[:, 0].mean())}


def query(options: argparse.Namespace) -> dict[str, Any]:
    """Rate and recall for each setting; candidates are ranked again by the mapped vectors."""
    held = np.load(options.folder / "vectors.npy", mmap_mode="r").view(np.ndarray)
    queries = np.load(options.folder / "queries.npy").astype(np.float32)
    true = np.load(options.folder / "truth.npy")
    index = load_index(options.folder / "index.faiss", len(held), held.shape[1])
    rows, trials = RowSet.of(range(len(held))), []
    for nprobe, factor in SETTINGS:
        searched = VectorIndex(index, SearchSettings(nprobe=nprobe, ef_search=128, refine_factor=factor), held)
        searched.search(queries, DEPTH, rows)
        wall, cpu = time.perf_counter(), time.process_time()
        ids, _ = searched.search(queries, DEPTH, rows)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        trials.append({"nprobe": nprobe, "refine_factor": factor, "queries_per_s": len(queries) / wall,
                       "queries_per_cpu_s": len(queries) / cpu,
                       "recall_2": recall(ids[:, :2], true[:, :2]), "recall_10": recall(ids, true)})  # fmt: skip
    return {"trials": trials}


def recall(found_QK: NDArray[np.int64], true_QK: NDArray[np.int64]) -> float:
    """Share of the true rows that were found."""
    return float((true_QK[:, :, None] == found_QK[:, None, :]).any(axis=2).mean())


def run_phase(options: argparse.Namespace) -> None:
    """Do one phase and leave what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    numbers = globals()[options.phase](options)
    numbers |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    numbers["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (options.folder / f"{options.phase}.json").write_text(json.dumps(numbers))


def page(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """The Markdown page."""
    lines = []
    for phase in PHASES[1:]:  # making the vectors is not part of what is measured
        told = numbers[phase]
        took = f"{told['seconds']:.0f} | {told['cpu_seconds']:.0f} | {told['peak_rss_bytes'] / 1e9:.1f}"
        lines.append(f"| {phase} | {took} |")
    trials = [
        f"| {one['nprobe']} | {one['refine_factor']} | {one['queries_per_s']:.0f} | {one['queries_per_cpu_s']:.0f} "
        f"| {one['recall_2']:.3f} | {one['recall_10']:.3f} |"
        for one in numbers["query"]["trials"]
    ]
    per_vector = f"{numbers['add']['bytes_per_vector']:.1f}"
    return "\n".join([
        f"# {options.vectors:,} vectors through index and query", "",
        f"Machine: {numbers['machine']}. Shared with other work: times are upper bounds, CPU-seconds are nearer the "
        "truth.", "Made by `benchmarks/ten_million.py`: synthetic vectors of 384 values, real MiniLM embeddings moved "
        "along the differences of real neighbors.", "",
        f"Index `{options.factory}`, trained on {numbers['train']['train_vectors']:,} vectors drawn uniformly: "
        f"**{per_vector} bytes a vector** in memory; candidates are ranked again by the float16 vectors, "
        f"{numbers['vectors']['bytes_on_disk'] / 1e9:.1f} GB, through a memory map.", "",
        "| phase | seconds | CPU-seconds | peak RSS, GB (pages of mapped files count) |", "|---|---:|---:|---:|",
        *lines, "",
        f"{numbers['truth']['queries']} held-out queries, {DEPTH} neighbors each, in one batch:", "",
        "| lists searched | candidates per neighbor | queries/s | queries per CPU-second | recall@2 | recall@10 |",
        "|---:|---:|---:|---:|---:|---:|", *trials, "",
    ])  # fmt: skip


def main() -> None:
    """Run the phases that were not done, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="float embeddings of real chunks, .npy [rows, 384]")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--factory", default=FACTORY)
    parser.add_argument("--train-vectors", type=int, default=TRAIN_VECTORS)
    parser.add_argument("--phase", choices=PHASES, help="only this one, in this process")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True, parents=True)
    if options.phase:
        run_phase(options)
        return
    for phase in PHASES:
        if not (options.folder / f"{phase}.json").exists():
            print(phase, flush=True)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.ten_million", *sys.argv[1:], "--phase", phase], check=True
            )
    numbers = {phase: json.loads((options.folder / f"{phase}.json").read_text()) for phase in PHASES}
    numbers["machine"] = machine("cpu")
    print(page(numbers, options))
    if not options.dry:
        print(write("ten_million", page(numbers, options), numbers))


if __name__ == "__main__":
    main()
