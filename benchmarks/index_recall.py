"""Faiss strings on the embeddings of a run: what they find, cost and hold, beside exact search.

    python -m benchmarks.index_recall runs/quickstart --write

Needs a finished run whose embeddings were kept. Each index is tuned to the target on one sample of held-out chunks and
measured on another, as the index stage does. Times are processor seconds of one thread, so that other work on the
machine counts for little; queries are timed in rounds that go through all indexes in turn, and medians are shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.results import machine, median, write
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index.codes import CODES, add_codes, encode, lists_of
from retro.index.config import IndexConfig
from retro.index.embeddings import FILE, sample_rows
from retro.index.faiss_index import SearchSettings, add_vectors
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import create_index, is_exact, ranks_again
from retro.index.recall import RECALL_AT, RecallSample, RecallSamples, recall_samples
from retro.index.rerank import map_vectors
from retro.index.training import train_index
from retro.index.tune import tunable_settings, tune
from retro.index.vector_index import VectorIndex

CASES = (
    "Flat",
    "IVF1024,SQ8",
    "RR{d},IVF512,RaBitQ",
    "RR{d},IVF1024_HNSW32,RaBitQ",
    "RR{d},IVF1024,RaBitQ off",
    "OPQ32_64,IVF1024,PQ32",
    "OPQ32_64,IVF1024,PQ32 on",
    "HNSW32",
)
"""Factory strings, `{d}` for the dimension; ` on` or ` off` behind one says whether embeddings rank them again."""


@dataclass
class Measured:
    """One row of the table."""

    factory: str
    reranked: bool
    train_seconds: float
    add_seconds: float
    bytes_per_vector: float
    settings: dict[str, int]
    reached: bool
    recall: dict[int, float]
    query_microseconds: float = 0.0


def main() -> None:
    """Build, tune, measure, time, print."""
    options = _options()
    load_faiss().omp_set_num_threads(1)
    run = options.run_dir
    db = ChunkDatabase.open(run / "2_db", Corpus.open(run / "1_corpus"))
    vectors = map_vectors(run / "3_index" / FILE)
    samples = recall_samples(db, vectors, options.queries, seed=1)
    built: dict[str, tuple[Any, float, float]] = {}
    rows, asked = [], []
    for case in options.cases:
        factory, _, refine = case.format(d=vectors.shape[1]).partition(" ")
        if factory not in built:
            built[factory] = _build(factory, vectors, db)
        config = IndexConfig(faiss=factory, refine=refine or "auto", target_recall=options.target)
        row, index = _measure(factory, *built[factory], vectors, samples, config)
        rows.append(row)
        asked.append(index)
        print(row)
    _time(rows, asked, samples.reported, options.rounds)
    page = _page(rows, db, vectors, options)
    print(page)
    if options.write:
        numbers = {"machine": machine("cpu"), "chunks": db.rows, "rows": [asdict(row) for row in rows]}
        write("index_recall", page, numbers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="a finished run with 1_corpus, 2_db and 3_index")
    parser.add_argument("--cases", nargs="+", default=CASES, help="factory strings, with ' on' or ' off' for refine")
    parser.add_argument("--queries", type=int, default=500, help="held-out chunks to tune with, and as many to report")
    parser.add_argument("--target", type=float, default=0.95, help="recall at ten to tune to")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing")
    parser.add_argument("--write", action="store_true", help="write docs/results/index_recall.md and .json")
    return parser.parse_args()


def _build(factory: str, vectors_ND: NDArray[Any], db: ChunkDatabase) -> tuple[Any, float, float]:
    """The filled index, and processor seconds of training and of adding."""
    sample = sample_rows(db.rows_of(0), 1_000_000, seed=1)
    index = create_index(factory, vectors_ND.shape[1], len(sample))
    train = _seconds(lambda: train_index(index, factory, vectors_ND[sample]))
    return index, train, _seconds(lambda: _fill(index, vectors_ND))


def _fill(index: Any, vectors_ND: NDArray[Any]) -> None:
    if lists_of(index) is None:
        add_vectors(index, vectors_ND, reproducible=True)
    else:
        codes = encode(index, vectors_ND, lambda _: None).arrays[CODES]
        add_codes(index, [codes], first_row=0, total=len(codes))


def _measure(
    factory: str,
    index: Any,
    train_seconds: float,
    add_seconds: float,
    vectors_ND: NDArray[Any],
    samples: RecallSamples,
    config: IndexConfig,
) -> tuple[Measured, VectorIndex]:
    faiss = load_faiss()
    again = ranks_again(faiss, index, config, factory)
    asked, reached = VectorIndex(index, SearchSettings.of(config), vectors_ND if again else None), True
    if not is_exact(faiss, index):
        tuned = tune(asked, samples.tuning, config)
        asked, reached = replace(asked, settings=tuned.chosen.settings), tuned.reached
    row = Measured(
        factory=factory,
        reranked=again,
        train_seconds=train_seconds,
        add_seconds=add_seconds,
        bytes_per_vector=len(faiss.serialize_index(index)) / index.ntotal,
        settings={name: getattr(asked.settings, name) for name in tunable_settings(asked)},
        reached=reached,
        recall={k: samples.reported.found_by(asked, k).mean for k in RECALL_AT},
    )
    return row, asked


def _time(rows: Sequence[Measured], indexes: Sequence[VectorIndex], sample: RecallSample, rounds: int) -> None:
    spent: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for place, index in enumerate(indexes):
            spent[place].append(_seconds(lambda index=index: index.search(sample.queries_QD, 10, sample.rows)))  # type: ignore[misc]
    for row, seconds in zip(rows, spent, strict=True):
        row.query_microseconds = 1e6 * median(seconds) / len(sample)


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _page(rows: Sequence[Measured], db: ChunkDatabase, vectors_ND: NDArray[Any], options: argparse.Namespace) -> str:
    exact = next((row.query_microseconds for row in rows if row.factory == "Flat"), float("nan"))
    lines = [
        "# Faiss strings on real embeddings",
        "",
        f"{db.rows:,} chunks of {db.chunk_length} tokens, vectors of {vectors_ND.shape[1]} values; target recall at "
        f"ten {options.target:g}, tuned on {options.queries} held-out chunks, reported on {options.queries} others. "
        f"Processor seconds of one thread; {machine('cpu')}, shared with other work. "
        "Made by `benchmarks/index_recall.py`.",
        "",
        "| index | ranked again | recall @2 / @10 / @20 | settings | bytes per vector in memory | train s | add s | "
        "us per query | times exact |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = " / ".join(f"{row.recall[k]:.3f}" for k in RECALL_AT)
        knobs = ", ".join(f"{name} {value}" for name, value in row.settings.items()) or "none"
        short = "" if row.reached else " (target not reached)"
        lines.append(
            f"| `{row.factory}` | {'yes' if row.reranked else 'no'} | {found}{short} | {knobs} | "
            f"{row.bytes_per_vector:,.1f} | {row.train_seconds:.1f} | {row.add_seconds:.1f} | "
            f"{row.query_microseconds:.0f} | {exact / row.query_microseconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
