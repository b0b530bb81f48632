"""Training samples assembled per second, three ways, with the files in memory and not.

* the original's pattern: the neighbor file opened again for every chunk, one row at a time, a Python list per neighbor
* ours: `TrainingSource.fetch`, as many sequences a call as the training loop's feed asks for them
* a bare gather from the map: the same number of runs copied and nothing else (no look-ups, masks or padding)

A sample is 2,048 tokens with 2 neighbors of 128 tokens for each of its 32 chunks. Cold runs are processes of their own:
pages that a process has mapped cannot be evicted. Used by `benchmarks.retrieval`.
"""

# Dims in this file. B samples   N runs

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import median
from benchmarks.synthetic_run import CHUNK, SOURCE, Run, open_or_make
from retro.common.mmap import Advice
from retro.pretrain.data import SequenceReader, TrainingSource
from retro.training.data_loader import READ_TOGETHER

SEQUENCE, NEIGHBORS, TOGETHER = 2048, 2, READ_TOGETHER
CHUNKS = SEQUENCE // CHUNK
WARM_SAMPLES = {"original": 64, "ours": 2048, "bare": 2048}
COLD_SAMPLES = {"original": 64, "plain": 64, "random": 256}
Read = Callable[[NDArray[np.int64]], Any]


class Ways:
    """The three ways to read the samples of one run."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.neighbor_file = folder / "4_neighbors" / "train.h5"
        self.run = run
        reader = SequenceReader(
            run.corpus, run.db, run.neighbors, split=0, sequence_length=SEQUENCE, neighbors_read=NEIGHBORS
        )
        self.source = TrainingSource(reader, run.corpus, samples=10**6, seed=0)
        self.stream, self.tokens = reader.streams[0], run.corpus.token_file(0).tokens
        random = np.random.default_rng(1)
        self.starts_BN = random.integers(0, len(self.tokens) - 2 * CHUNK, (20_000, CHUNKS * NEIGHBORS))
        self.windows_B = random.integers(0, len(self.tokens) - SEQUENCE - 1, 20_000)

    def touch(self) -> None:
        """Have every page in memory and in this process's page table, as they are after an epoch."""
        int(self.tokens[::512].sum())
        for column in self.run.db.columns.values():
            column[np.arange(0, len(column), 256)]
        chunks = self.run.neighbors.chunks(0, 0)
        self.run.neighbors.of(0, 0, np.arange(0, chunks, 16), 1)

    def ours(self, samples: NDArray[np.int64]) -> None:
        """As the feed does."""
        for start in range(0, len(samples), TOGETHER):
            self.source.fetch(samples[start : start + TOGETHER])

    def bare(self, samples: NDArray[np.int64]) -> None:
        """Copies from the map alone, as many bytes from as many random places."""
        runs = np.lib.stride_tricks.sliding_window_view(self.tokens, 2 * CHUNK)
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, SEQUENCE + 1)
        for start in range(0, len(samples), TOGETHER):
            some = samples[start : start + TOGETHER] % len(self.windows_B)
            runs[self.starts_BN[some].ravel()]
            windows[self.windows_B[some]]

    def original(self, samples: NDArray[np.int64]) -> None:
        """Chunk by chunk, as the removed RetroDataset read them."""
        for sequence in self.source._sequences(0, samples).tolist():
            self.stream.tokens([sequence * SEQUENCE], SEQUENCE + 1)
            texts = []
            for chunk in range(sequence * CHUNKS, (sequence + 1) * CHUNKS):
                with h5py.File(self.neighbor_file, "r") as file:
                    ids = file[SOURCE]["neighbors"][chunk, :NEIGHBORS]
                texts.append([self._retrieved(int(row)) for row in ids])
            np.array(texts, dtype=np.int64)

    def _retrieved(self, row: int) -> list[int]:
        found = self._row(row)
        if self.run.db.columns["continues"][row]:
            found += self._row(row + 1)
        return found + [0] * (2 * CHUNK - len(found))

    def _row(self, row: int) -> list[int]:
        columns = self.run.db.columns
        start, count = int(columns["token_start"][row]), int(columns["token_count"][row])
        tokens: list[int] = self.tokens[start : start + count].tolist()
        return tokens


def rates(read: Read, samples: NDArray[np.int64]) -> tuple[float, float]:
    """Samples per CPU-second and per second."""
    cpu, wall = time.process_time(), time.perf_counter()
    read(samples)
    return len(samples) / (time.process_time() - cpu), len(samples) / (time.perf_counter() - wall)


def warm(folder: Path, tokens: int, rounds: int) -> dict[str, Any]:
    """All three in alternating rounds, everything in memory."""
    run = open_or_make(folder, tokens)
    ways = Ways(folder, run)
    ways.touch()
    found: dict[str, Any] = {name: {"cpu": [], "wall": []} for name in WARM_SAMPLES}
    for number in range(-1, rounds):
        for name, count in WARM_SAMPLES.items():
            first = (number + 1) * max(WARM_SAMPLES.values())
            cpu, wall = rates(getattr(ways, name), np.arange(first, first + count))
            if number >= 0:  # the first round is to warm up
                found[name]["cpu"].append(cpu)
                found[name]["wall"].append(wall)
    return {
        "rates": found,
        "of_bare": median([a / b for a, b in zip(found["bare"]["cpu"], found["ours"]["cpu"], strict=True)]),
        "over_original": median([a / b for a, b in zip(found["ours"]["cpu"], found["original"]["cpu"], strict=True)]),
    }


def cold(folder: Path, tokens: int, rounds: int) -> dict[str, Any]:
    """Rates with nothing in memory: the original's pattern, ours through a plain map, and ours asking ahead."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in COLD_SAMPLES}
    for number in range(rounds):
        for name in COLD_SAMPLES:
            command = [sys.executable, "-m", "benchmarks.reading", str(folder), str(tokens), name, str(number)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rate = {name: median([one["samples_per_s"] for one in runs]) for name, runs in found.items()}
    return {"runs": found, "over_plain": rate["random"] / rate["plain"], "rates": rate}


def cold_case(folder: Path, tokens: int, name: str, number: int) -> dict[str, float]:
    """One cold run, in a process that has touched no page of the files."""
    run = open_or_make(folder, tokens)
    advice: Advice = "random" if name == "random" else "plain"
    run.corpus.advise(advice)
    ways = Ways(folder, run)
    count = COLD_SAMPLES[name]
    samples = np.arange(1000 * number, 1000 * number + count)
    ways.source._sequences(0, samples)  # makes the order of the epoch, which is in memory in any run
    evict(folder)
    left, before = resident(folder), read_bytes()
    started = time.perf_counter()
    (ways.original if name == "original" else ways.ours)(samples)
    seconds = time.perf_counter() - started
    return {
        "samples_per_s": count / seconds,
        "resident_share_before": left,
        "bytes_per_sample": (read_bytes() - before) / count,
    }


def files_of(folder: Path) -> list[Path]:
    """Everything that a sample is read from."""
    return [
        folder / "1_corpus" / f"{SOURCE}.bin",
        folder / "2_db" / "db.h5",
        folder / "4_neighbors" / "train.h5",
    ]


def evict(folder: Path) -> None:
    """Have the system drop the files' pages from memory."""
    for path in files_of(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(folder: Path) -> float:
    """Share of the files' pages that are in memory, as mincore(2) says."""
    libc = ctypes.CDLL(None, use_errno=True)
    inside = total = 0
    for path in files_of(folder):
        held = np.memmap(path, dtype=np.uint8, mode="r")
        pages = np.zeros(-(-len(held) // 4096), dtype=np.uint8)
        address = ctypes.c_void_p(held.ctypes.data)
        if libc.mincore(address, ctypes.c_size_t(len(held)), pages.ctypes.data_as(ctypes.c_void_p)):
            raise OSError(ctypes.get_errno(), "mincore failed", str(path))
        inside, total = inside + int((pages & 1).sum()), total + len(pages)
    return inside / total


def read_bytes() -> int:
    """Bytes that this process had read from disks so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


if __name__ == "__main__":
    print(json.dumps(cold_case(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
