"""Peak memory from documents to a searchable store of embeddings, as the number of segments grows.

Documents of random words are cut into segments (step `segments` of the recipe dense_retriever), embedded in shards,
converted to one mapped file, and searched there. What counts is that memory stays flat: what grows with the segments is
a table of 20 bytes for each (and the ids of one shard while it is converted), not their text or their vectors. The
embedder costs nothing (a hash of the text), since only what is around it is measured.

Each number of segments is a process of its own. Memory is what the process itself holds (RssAnon, looked at 50 times a
second); pages of mapped files are the system's to take back, and are shown beside it.

Run:    python -m benchmarks.store_memory --segments 250000 500000 1000000 [--dimension 64] [--shard 250000]
Writes: docs/results/store_memory.md and .json, unless --dry. The folder takes 6 D + 700 bytes a segment meanwhile.
"""

# Dims in this file. N segments   D dimension

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import machine, write
from retro.common.config import StageConfig
from retro.index.embedder import EMBEDDERS, Embedder, ignore
from retro.recipes.base import run_recipe
from retro.recipes.dense_retriever.data.segments import PASSAGES, SEGMENTS
from retro.recipes.dense_retriever.data.segments_config import SegmentsConfig
from retro.recipes.passages.config import MAPPED, PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.search import PassageRetriever
from retro.run.config import RunConfig

PHASES = ("segments", "embed", "convert", "search")
WINDOW, STEP = 48, 12
DOCUMENT_WORDS = 48 + 12 * 99
"""A document of so many words has a hundred segments."""
_TARGET_N, _TARGET_D = 10_000_000, 768


class HashEmbedder(Embedder):
    """Vectors of the bytes of a hash: no model, no cost."""

    settings = ("options",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dimension = int(config.options["dimension"])
        self.identity = {"kind": "hash", "dimension": self.dimension}

    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        """[N, D] values from -1 to 1."""
        digests = b"".join(hashlib.blake2b(text.encode()).digest() for text in texts)
        bytes_ND = np.frombuffer(digests, dtype=np.int8).reshape(len(texts), -1)
        times = -(-self.dimension // bytes_ND.shape[1])
        return np.tile(bytes_ND, times)[:, : self.dimension].astype(np.float32) / np.float32(128)


class _Settings(StageConfig):
    segments: SegmentsConfig = SegmentsConfig()
    """The section of the step."""


class _SegmentsAlone:
    """A recipe of the one step."""

    name = "dense_retriever"
    summary = "Segments"
    config = _Settings
    special_tokens: tuple[str, ...] = ()
    steps = (SEGMENTS,)


def memory() -> dict[str, int]:
    """Bytes that this process holds itself, and with pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return {"own": int(found["RssAnon"]) * 1024, "with_files": int(found["VmRSS"]) * 1024}


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Seconds and greatest memory of what is done meanwhile."""
    found: dict[str, Any] = {"own": 0, "with_files": 0}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for name, value in memory().items():
                found[name] = max(found[name], value)

    thread, started = threading.Thread(target=look, daemon=True), time.perf_counter()
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found["seconds"] = time.perf_counter() - started


def measure(segments: int, dimension: int, per_shard: int, folder: Path) -> dict[str, Any]:
    """All phases in this process; for each, seconds and memory."""
    EMBEDDERS.register("hash")(HashEmbedder)
    _write_documents(folder / "documents.jsonl", segments)
    found: dict[str, Any] = {"segments": segments, "at_start": memory()["own"], "phases": {}}
    source = {"name": "documents", "path": folder / "documents.jsonl"}
    settings = {"segments": {"window": WINDOW, "step": STEP, "sources": [source]}}
    with watched() as found["phases"]["segments"]:
        run_recipe(
            _SegmentsAlone(), RunConfig(run_dir=folder / "run", recipe={"dense_retriever": settings}), "segments"
        )
    passages = folder / "run/recipe_dense_retriever/segments" / PASSAGES
    config = PassagesConfig(
        passages=passages, embeddings=str(folder / "embeddings"), faiss=MAPPED,
        embedder={"kind": "hash", "options": {"dimension": dimension}},
    )  # fmt: skip
    shards = max(1, segments // per_shard)
    with watched() as found["phases"]["embed"]:
        for number in range(shards):
            embed_shard(config, folder / "embeddings", number, shards)
    with watched() as found["phases"]["convert"]:
        retriever = PassageRetriever.open(config)
    with watched() as found["phases"]["search"]:
        best = retriever.search([f"word{number}" for number in range(10)], 10)
    found |= {"rows": len(retriever.vectors), "shards": shards, "found": sum(map(len, best))}
    found["disk"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return found


def _write_documents(path: Path, segments: int) -> None:
    """Documents of a hundred segments each."""
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(10_000)]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(segments // 100):
            text = " ".join(words[place] for place in random.integers(0, len(words), DOCUMENT_WORDS).tolist())
            stream.write(json.dumps({"id": f"d{number}", "title": f"Document {number}", "text": text}) + "\n")


def growth(rows: Sequence[dict[str, Any]], phase: str) -> float:
    """Bytes of own memory that each further segment takes in a phase: the slope of a straight line."""
    sizes = [row["segments"] for row in rows]
    held = [row["phases"][phase]["own"] for row in rows]
    return float(np.polyfit(sizes, held, 1)[0]) if len(set(sizes)) > 1 else float("nan")


def page(numbers: dict[str, Any]) -> str:
    """The Markdown page."""
    rows = numbers["rows"]
    lines = ["# Memory of a store of segments", "", f"Machine: {numbers['machine']}, shared with other work."]
    lines += [f"Made by `benchmarks/store_memory.py`: {numbers['dimension']} values a segment, float16, at most"]
    lines += [f"{numbers['shard']:,} segments a shard. MB that the process holds itself; in brackets with pages of"]
    lines += ["mapped files, which the system may take back; seconds."]
    lines += ["", f"| segments | shards | at start | {' | '.join(PHASES)} | disk, GB |"]
    lines += [f"|---:|---:|---:|{'---:|' * len(PHASES)}---:|"]
    for row in rows:
        cells = (row["phases"][phase] for phase in PHASES)
        shown = (f"{c['own'] / 1e6:.0f} ({c['with_files'] / 1e6:.0f}), {c['seconds']:.0f} s" for c in cells)
        start = f"{row['at_start'] / 1e6:.0f}"
        lines += [
            f"| {row['segments']:,} | {row['shards']} | {start} | {' | '.join(shown)} | {row['disk'] / 1e9:.1f} |"
        ]
    lines += [""]
    lines += _extrapolated(rows)
    return "\n".join(lines) + "\n"


def _extrapolated(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    last = rows[-1]
    slopes = {phase: growth(rows, phase) for phase in PHASES}
    if any(np.isnan(list(slopes.values()))):
        return
    shown = ", ".join(f"{phase} {slope:.0f}" for phase, slope in slopes.items())
    yield from textwrap.wrap(f"Bytes that each further segment takes (a straight line through the rows): {shown}.", 120)
    yield ""
    needed = {
        phase: last["phases"][phase]["own"] + max(slope, 0) * (_TARGET_N - last["segments"])
        for phase, slope in slopes.items()
    }
    most = max(needed, key=lambda phase: needed[phase])
    vectors = 2 * _TARGET_N * _TARGET_D
    text = (
        f"**Extrapolated, not measured**, to {_TARGET_N:,} segments in shards of that size: {needed[most] / 1e9:.1f} "
        f"GB at most (phase {most}), for vectors of {vectors / 1e9:.1f} GB at {_TARGET_D} values. A block of 10,000 "
        f"vectors, which is held some times over, grows with D: {40_000 * _TARGET_D / 1e6:.0f} MB as float32 there."
    )
    yield from textwrap.wrap(text, 120)


def main() -> None:
    """Measure each size in a process of its own, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[250_000, 500_000, 1_000_000], help="of hundreds")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--shard", type=int, default=250_000, help="segments of a shard")
    parser.add_argument("--folder", type=Path, help="where files go meanwhile (default: the system's)")
    parser.add_argument("--alone", action="store_true", help="measure the one size in this process")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    if options.alone:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            print(json.dumps(measure(options.segments[0], options.dimension, options.shard, Path(name))))
        return
    rows = []
    for size in options.segments:
        own = ["--segments", str(size), "--dimension", str(options.dimension), "--shard", str(options.shard), "--alone"]
        place = ["--folder", str(options.folder)] if options.folder else []
        command = [sys.executable, "-m", "benchmarks.store_memory", *own, *place]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    numbers = {"machine": machine("cpu"), "dimension": options.dimension, "shard": options.shard, "rows": rows}
    print(page(numbers))
    if not options.dry:
        print(write("store_memory", page(numbers), numbers))


if __name__ == "__main__":
    main()
