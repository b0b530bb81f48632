"""Exact search beside IVF, measured as it has to be: recall and latency for each (nlist, nprobe).

The project that this repeats timed `nprobe = nlist` (every list, so nothing is saved), an index made with Faiss's
default metric L2 behind a quantizer for inner products, training and the making of random vectors within the time, and
random vectors alone. Here the metric is the inner product, an index is trained once on a sample of at least 39 vectors
for each list, only searches are timed, and recall@10 stands beside every time. Real embeddings come first; random ones
show why they mislead: they have no clusters, so that few lists hold few of the nearest. The index that this toolkit
chooses by itself stands in the same table, and so do the original's mistakes. On one thread times are of the processor,
so that other work on the machine counts for little; on several they are of the clock on the wall.

Methods, each in a process of its own, so that its peak of memory is its own:

    exact          IndexFlatIP: float32 in memory            mapped     every vector, read as float16 from the disk
    ivf_100        IVFFlat with 100 lists                    ivf_sqrt   with sqrt(N) lists
    policy         what `index.faiss: auto` takes; the cheapest nprobe with recall 0.95 on other queries is marked
    l2_mistake     IVFFlat with sqrt(N) lists and the default metric

What was done is left in the folder and not done again. Where there are fewer real vectors than asked for, all are
derived from them: each is a real one moved along the differences of near neighbors (as benchmarks/ten_million.py does).

Run:    python -m benchmarks.exact_and_ivf --passages passages.jsonl --folder /somewhere --sizes 1000000 2000000
        [--embedder kind=huggingface model=FOLDER …] [--methods exact ivf_100 …]
Writes: docs/results/exact_and_ivf.md, .json and .svg, unless --dry.
Takes:  2 D bytes a vector on the disk (twice for the real ones), and in memory 4 D bytes a vector for `exact`, up to
        twice that for `ivf_*` while lists grow, D for `policy`, and little for `mapped`.
"""

# Dims in this file. N vectors   D dimension   Q queries   K neighbors

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ivf_measure import (
    Float32,
    Int64,
    K,
    Search,
    latency,
    probes,
    recall,
    training_vectors,
    true_scores,
)
from benchmarks.ivf_page import KINDS, METHODS, TARGET, draw, page
from benchmarks.ivf_vectors import AT_ONCE, embed, write_random, write_real
from benchmarks.results import FOLDER, machine, peak_memory, write
from retro.common.config import apply_overrides
from retro.common.row_set import RowSet
from retro.index.config import BUILT_IN_MODEL, EmbedderConfig
from retro.index.embeddings import sample_rows
from retro.index.faiss_index import SearchSettings, exact_hits
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import choose_index, create_index
from retro.index.training import train_index
from retro.index.vector_index import VectorIndex

WANTED = (1_000_000, 2_000_000, 5_000_000)
"""Vectors at which the earlier project's table is: the page says which of these were not run."""


def measured(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows of one method."""
    vectors_ND = np.load(folder / "vectors.npy", mmap_mode="r").view(np.ndarray)
    queries_QD = np.load(folder / "queries.npy").astype(np.float32)
    truth_QK = np.load(folder / "truth.npy")
    index, found = _built(method, vectors_ND, options)
    rows = [
        row | _row(search, vectors_ND, queries_QD, truth_QK, options)
        for row, search in _searches(method, index, vectors_ND)
    ]
    if method == "policy":
        _mark_choice(rows)
    return found | {"rows": rows, "peak_rss_bytes": peak_memory()}


def _built(method: str, vectors_ND: NDArray[Any], options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The filled index, and what making it took; training is done once."""
    if method == "mapped":
        return None, {"index": "none, float16 on the disk", "lists": 0, "train_s": 0.0, "add_s": 0.0}
    faiss = load_faiss()
    (total, dimension), lists = vectors_ND.shape, _lists(method, len(vectors_ND))
    factory = choose_index(total, total, dimension) if method == "policy" else f"IVF{lists},Flat" if lists else "Flat"
    if method == "l2_mistake":
        # As the original wrote it: the quantizer compares inner products, the index by default L2.
        quantizer = faiss.IndexFlatIP(dimension)
        factory, index = f"IndexIVFFlat(IndexFlatIP, {lists})", faiss.IndexIVFFlat(quantizer, dimension, lists)
    else:
        index = create_index(factory, dimension, total)
    lists = int(getattr(faiss.downcast_index(index), "nlist", 0))
    sample = training_vectors(total, lists, options.per_list) if lists else 0
    train_s = _seconds(lambda: _train(method, index, factory, vectors_ND, sample, options.seed)) if sample else 0.0
    add_s = _seconds(lambda: _add(index, vectors_ND))
    took = {"train_vectors": sample, "train_s": train_s, "add_s": add_s}
    return index, {"index": factory, "lists": lists, **took}


def _lists(method: str, vectors: int) -> int:
    return {"ivf_100": 100, "ivf_sqrt": math.isqrt(vectors), "l2_mistake": math.isqrt(vectors)}.get(method, 0)


def _train(method: str, index: Any, factory: str, vectors_ND: NDArray[Any], sample: int, seed: int) -> None:
    some = np.ascontiguousarray(vectors_ND[sample_rows(range(len(vectors_ND)), sample, seed)], dtype=np.float32)
    if method == "l2_mistake":
        index.train(some)
    else:
        train_index(index, factory, some, reproducible=False)


def _add(index: Any, vectors_ND: NDArray[Any]) -> None:
    for start in range(0, len(vectors_ND), AT_ONCE):
        index.add(np.ascontiguousarray(vectors_ND[start : start + AT_ONCE], dtype=np.float32))


def _searches(method: str, index: Any, vectors_ND: NDArray[Any]) -> Iterator[tuple[dict[str, Any], Search]]:
    """Every setting of a method, and the search under it."""
    every = RowSet.of(range(len(vectors_ND)))
    if method == "mapped":
        yield {"nprobe": None}, lambda queries_QD: exact_hits(vectors_ND, queries_QD, K, every)[0]
        return
    faiss = load_faiss()
    lists = int(getattr(faiss.downcast_index(index), "nlist", 0))
    if not lists:
        yield {"nprobe": None}, lambda queries_QD: _ids(index.search(queries_QD, K))
        return
    for nprobe in probes(lists):
        yield {"nprobe": nprobe}, _with_probes(method, index, nprobe, vectors_ND, every)


def _with_probes(method: str, index: Any, nprobe: int, vectors_ND: NDArray[Any], every: RowSet) -> Search:
    if method == "policy":
        # As a run searches it: candidates of one bit per value are ranked again by their vectors.
        again = vectors_ND if "RaBitQ" in type(load_faiss().downcast_index(index)).__name__ else None
        searched = VectorIndex(index, SearchSettings(nprobe=nprobe, ef_search=128, refine_factor=10), again)
        return lambda queries_QD: searched.search(queries_QD, K, every)[0]
    parameters = load_faiss().SearchParametersIVF(nprobe=nprobe)
    return lambda queries_QD: _ids(index.search(queries_QD, K, params=parameters))


def _ids(found: tuple[Float32, Int64]) -> Int64:
    return found[1]


def _row(
    search: Search, vectors_ND: NDArray[Any], queries_QD: Float32, truth_QK: Float32, options: argparse.Namespace
) -> dict[str, Any]:
    """Recall on all queries and on each half of them, and latency on the first."""
    found_QK = search(queries_QD)
    half = len(queries_QD) // 2
    shares = {
        name: recall(vectors_ND, queries_QD[part], found_QK[part], truth_QK[part])
        for name, part in {"tuning": slice(0, half), "reported": slice(half, None)}.items()
    }
    clock = time.process_time if options.threads == 1 else time.perf_counter
    times = latency(search, queries_QD[: options.timed], clock)
    return {f"recall_{name}": share for name, share in shares.items()} | times


def _mark_choice(rows: list[dict[str, Any]]) -> None:
    """Mark the cheapest setting that reaches the target on the queries for tuning; none: the last, which is nearest."""
    reached = [row for row in rows if row["recall_tuning"] >= TARGET]
    (reached[0] if reached else rows[-1])["chosen"] = True


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def make_vectors(kind: str, vectors: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Vectors, queries, and the true scores of the nearest."""
    about: dict[str, Any] = {"source": source(options, kind)}
    if kind == "real":
        real_RD = np.load(options.real, mmap_mode="r") if options.real else embed(
            options.passages, options.embedder, options.folder
        )  # fmt: skip
        about["embedded"] = len(real_RD)
        counts = write_real(real_RD, vectors, options.queries, options.seed, folder)
    else:
        counts = write_random(vectors, options.queries, options.dimension, options.seed, folder)
    vectors_ND = np.load(folder / "vectors.npy", mmap_mode="r").view(np.ndarray)
    np.save(folder / "truth.npy", true_scores(vectors_ND, np.load(folder / "queries.npy").astype(np.float32)))
    some = np.linalg.norm(np.asarray(vectors_ND[:10_000], dtype=np.float32), axis=1)
    made = _seconds(lambda: _random_matrix(vectors, int(vectors_ND.shape[1])))
    lengths = {"length_mean": float(some.mean()), "length_deviation": float(some.std())}
    return {**about, **counts, "dimension": int(vectors_ND.shape[1]), "random_matrix_s": made, **lengths}


def source(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """What the vectors of a kind are of; files by their names alone."""
    if kind == "random":
        return {"dimension": options.dimension}
    if options.real:
        return {"embeddings": options.real.name, "bytes": options.real.stat().st_size}
    embedder = EmbedderConfig(**options.embedder).model_dump(mode="json")
    embedder |= {name: _shown(embedder[name]) for name in ("model", "query_model") if embedder[name]}
    return {"passages": options.passages.name, "bytes": options.passages.stat().st_size, "embedder": embedder}


def command_line(words: Sequence[str]) -> str:
    """The command as it was typed, without the folders of files."""
    shown = (f"{name}{sign}{_shown(value)}" for name, sign, value in (_setting(word) for word in words))
    whole = f"python -m benchmarks.exact_and_ivf {shlex.join(shown)}"
    lines = textwrap.wrap(whole, 116, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines)


def _setting(word: str) -> tuple[str, str, str]:
    name, sign, value = word.partition("=")
    return (name, sign, value) if sign else ("", "", word)


def _shown(value: str) -> str:
    """A file or a folder by its name; all else, as a name on the Hub, as it is."""
    return Path(value).name if Path(value).is_absolute() or Path(value).exists() else value


def _random_matrix(vectors: int, dimension: int) -> None:
    """What the original did within every measurement, a slice at a time."""
    random = np.random.default_rng(0)
    for start in range(0, vectors, AT_ONCE):
        random.random((min(AT_ONCE, vectors - start), dimension), np.float32)


def run_phase(options: argparse.Namespace) -> None:
    """Do one method for one set of vectors, and leave its numbers."""
    load_faiss().omp_set_num_threads(options.threads)
    kind, size, phase = options.phase
    folder = place(options, kind, int(size))
    folder.mkdir(parents=True, exist_ok=True)
    found = make_vectors(kind, int(size), options, folder) if phase == "vectors" else measured(phase, options, folder)
    (folder / f"{phase}.json").write_text(json.dumps(found, indent=1))


def place(options: argparse.Namespace, kind: str, size: int) -> Path:
    """Where the files of one set of vectors are."""
    folder: Path = options.folder / f"{kind}_{size}"
    return folder


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """What all phases left, each run first where it is missing."""
    numbers: dict[str, Any] = {
        "machine": machine("cpu"), "threads": options.threads, "command": command_line(sys.argv[1:]),
        "not_run": [size for size in WANTED if size not in options.sizes], "sets": [],
    }  # fmt: skip
    for size in options.sizes:
        for kind in options.kinds:
            folder, found = place(options, kind, size), {"kind": kind, "size": size}
            for phase in ("vectors", *options.methods):
                if not (folder / f"{phase}.json").exists():
                    print(kind, size, phase, flush=True)
                    command = [sys.executable, "-m", "benchmarks.exact_and_ivf", *sys.argv[1:]]
                    subprocess.run([*command, "--phase", kind, str(size), phase], check=True)
                found[phase] = json.loads((folder / f"{phase}.json").read_text())
            if found["vectors"].get("source") != source(options, kind):
                raise SystemExit(f"{folder}: has vectors of {found['vectors'].get('source')}. Give another --folder")
            numbers["sets"].append(found)
            if not options.keep:
                for name in ("vectors.npy", "queries.npy"):
                    (folder / name).unlink(missing_ok=True)
    return numbers


def _options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, help="passages to embed: .jsonl or .tsv")
    minilm = ["kind=sentence_transformers", f"model={BUILT_IN_MODEL}"]
    parser.add_argument("--embedder", nargs="+", default=minilm, help="settings, as kind=… model=…; default: MiniLM")
    parser.add_argument("--real", type=Path, help="in place of passages: embeddings, .npy [rows, D]")
    parser.add_argument("--folder", type=Path, required=True, help="where vectors and numbers go")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dimension", type=int, default=384, help="of the random vectors")
    parser.add_argument("--queries", type=int, default=200, help="half to choose nprobe by, half to report")
    parser.add_argument("--timed", type=int, default=20, help="of them, a multiple of ten")
    parser.add_argument("--per-list", type=int, default=64, help="training vectors for each list, at least 39")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the vectors of a set that is done")
    parser.add_argument("--phase", nargs=3, metavar=("KIND", "SIZE", "PHASE"), help="only this, in this process")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args(words)
    options.embedder = apply_overrides({}, options.embedder)
    if not options.real and not options.passages and "real" in options.kinds:
        parser.error("give --passages or --real, or --kinds random")
    if options.timed % 10 or not 0 < options.timed <= options.queries:
        parser.error("--timed needs a multiple of ten, at most --queries")
    return options


def main() -> None:
    """Run what was not done, print and write."""
    options = _options()
    if options.phase:
        run_phase(options)
        return
    numbers = collect(options)
    print(page(numbers))
    if options.dry:
        draw(numbers, options.folder / "exact_and_ivf.svg")
        return
    print(write("exact_and_ivf", page(numbers), dict(numbers)))
    draw(numbers, FOLDER / "exact_and_ivf.svg")


if __name__ == "__main__":
    main()
