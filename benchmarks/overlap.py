"""What retrieval is worth by how much of the text stands in the database: GPT and Retro, both from random weights.

The text is the documentation inside installed packages. The database holds no document of it, but a version of each
one: pieces of eight words are kept with probability p, and replaced by a piece of another document otherwise. So p is
the overlap, from 0 to 1, and nothing else differs between the databases; `mixed` draws p anew for each document. A
Retro reads what the search finds there, in training and on the test split, and a GPT of equal size reads the same text
(Doostmohammadi and Kuhlmann 2025; Norlund et al. 2023 asked how much of the gain is overlap).

    OMP_NUM_THREADS=1 python -m benchmarks.overlap runs/overlap                # three seeds, all overlaps, BM25
    ... --search dense hybrid --overlap 0.25 0.5 --seeds 1
    ... --swap                  # then read other databases with the models trained on `mixed`: other p, fewer documents
    ... --page                                                                 # only read what is there, and write

Writes docs/results/overlap.md, .json and .svg. What a folder has already is kept; a run that was killed continues.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overlap_page import OVERLAPS, SEARCHES, SHARES, STORED, SWAPPED, write_page
from benchmarks.results import machine
from retro.common.files import atomic_path
from retro.init.training_choices import COPYING_TRAIN, SHAPES
from retro.quickstart.docstrings import installed_package, write_docstrings
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import BY_WORDS, build
from retro.run.pipeline import stage

PIECE = 8
"""Words that are kept or replaced together."""
DENSE: dict[str, Any] = {"index": {"embedder": {"kind": "hashing"}}}
HYBRID: dict[str, Any] = {**DENSE, "search": {"source": "hybrid"}, "neighbors": {"source": "hybrid"}}
SETTINGS: dict[str, dict[str, Any]] = dict(zip(SEARCHES, (BY_WORDS, DENSE, HYBRID), strict=True))


def write_versions(text: Path, path: Path, overlap: str) -> None:
    """A version of every document of `text`, of which the share `overlap` is as it was."""
    lines = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    pieces_D = [_pieces(line["text"]) for line in lines]
    drawn = random.Random(f"overlap {overlap}")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for line, pieces in zip(lines, pieces_D, strict=True):
            kept = drawn.random() if overlap == "mixed" else float(overlap)
            made = [piece if drawn.random() < kept else drawn.choice(drawn.choice(pieces_D)) for piece in pieces]
            out.write(json.dumps({"id": f"version of {line['id']}", "text": "".join(made)}) + "\n")


def write_share(versions: Path, path: Path, share: float) -> None:
    """Some of the versions, drawn at random; a larger share holds what a smaller one does."""
    drawn = random.Random("share")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines(
            line for line in versions.read_text(encoding="utf-8").splitlines(keepends=True) if drawn.random() < share
        )


def _pieces(text: str) -> list[str]:
    words = re.findall(r"\S+\s*", text)
    return ["".join(words[start : start + PIECE]) for start in range(0, len(words), PIECE)]


class Experiment:
    """A folder of runs."""

    def __init__(self, folder: Path, packages: Sequence[str], steps: int) -> None:
        self.folder, self.packages, self.steps = folder, packages, steps

    def prepare(self, search: str, overlap: str) -> None:
        """Text, database and neighbors of one overlap, which all seeds share."""
        text, versions = self.folder / "text.jsonl", self.folder / f"versions_{overlap}.jsonl"
        if not text.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_docstrings(text, [installed_package(name) for name in self.packages])
        if not versions.exists():
            write_versions(text, versions, overlap)
        build(self.run(search, overlap), ("corpus",))
        build(self.store(search, overlap), ("corpus", "db", "index"))
        build(self.run(search, overlap), ("neighbors",))

    def store(self, search: str, overlap: str, share: float = 1.0) -> RunConfig:
        """The run whose database is read: the versions, or a share of them, with the tokenizer of the text."""
        tokenizer = stage("corpus").path(self.run(search, overlap)) / "tokenizer" / "tokenizer.model"
        name = overlap if share == 1 else f"{overlap}_share_{share}"
        corpus = {
            "sources": [{"name": "versions", "path": self.folder / f"versions_{name}.jsonl"}],
            "split": [1, 0, 0],
            "tokenizer": {"path": tokenizer},
        }
        return run_config_of({**SETTINGS[search], "run_dir": self.folder / f"store_{search}_{name}", "corpus": corpus})

    def swapped(self, seed: int, overlap: str, share: float = 1.0) -> RunConfig:
        """The model trained on `mixed`, reading another database on the test split."""
        config = self.run("bm25", SWAPPED, seed)
        there = config.database.model_copy(update={"run_dir": self.store("bm25", overlap, share).run_dir})
        neighbors = config.neighbors.model_copy(update={"splits": ("test",)})
        return config.model_copy(update={"database": there, "neighbors": neighbors})

    def swap(self, seed: int, overlap: str, share: float = 1.0) -> None:
        """Measure that."""
        versions = self.folder / f"versions_{overlap}_share_{share}.jsonl"
        if share != 1 and not versions.exists():
            write_share(self.folder / f"versions_{overlap}.jsonl", versions, share)
        build(self.store("bm25", overlap, share), ("corpus", "db", "index"))
        build(self.swapped(seed, overlap, share), ("neighbors", "perplexity"))

    def run(self, search: str, overlap: str, seed: int = 0) -> RunConfig:
        """The run of one Retro and, where nothing overlaps, of the GPT too; seed 0 trains nothing."""
        shaped = SHAPES[0]
        name = f"{search}_{overlap}" + (f"_{seed}" if seed else "")
        settings = {
            **SETTINGS[search],
            "run_dir": self.folder / name,
            "database": {"run_dir": self.folder / f"store_{search}_{overlap}"},
            "corpus": {"sources": [{"name": "text", "path": self.folder / "text.jsonl"}], "split": [0.9, 0.05, 0.05]},
            "model": shaped.settings,
            "train": {
                **COPYING_TRAIN,
                "steps": self.steps,
                "lr": shaped.lr,
                "micro_batch": shaped.micro_batch,
                "global_batch": shaped.global_batch,
                "precision": "float32",
                "seed": seed,
            },
            "pretrain": {"baselines": ["gpt_equal"] if (search, overlap) == ("bm25", "0") else []},
            "perplexity": {"split": "test", "precision": "float32"},
        }
        return run_config_of(settings)

    def train(self, search: str, overlap: str, seed: int) -> RunConfig:
        """Train and measure one seed."""
        config = self.run(search, overlap, seed)
        shared = self.run(search, overlap)
        for name in ("corpus", "neighbors"):
            there = stage(name).path(config)
            if not there.exists():
                with atomic_path(there) as temporary:
                    shutil.copytree(stage(name).path(shared), temporary)
        build(config, ("pretrain", "perplexity"))
        return config


def cells(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Search, overlap and seed, whole rounds of seeds first."""
    for search in options.search:
        for seed in options.seeds:
            for overlap in options.overlap:
                yield search, overlap, seed


def main() -> None:
    """Train what is missing, and write the page of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", nargs="+", default=["numpy", "scipy", "sklearn"])
    parser.add_argument("--search", nargs="+", choices=SEARCHES, default=["bm25"])
    parser.add_argument("--overlap", nargs="+", choices=OVERLAPS, default=list(OVERLAPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--swap", action="store_true", help="train nothing; read other databases")
    parser.add_argument("--page", action="store_true", help="train nothing")
    options = parser.parse_args()
    experiment = Experiment(options.folder, options.packages, options.steps)
    if options.swap:
        for seed in options.seeds:
            for overlap in (one for one in OVERLAPS if one != SWAPPED):
                experiment.swap(seed, overlap)
            for share in SHARES:
                experiment.swap(seed, STORED, share)
    elif not options.page:
        for search, overlap, seed in cells(options):
            experiment.prepare(search, overlap)
            experiment.train(search, overlap, seed)
    write_page(experiment, machine("cpu"))


if __name__ == "__main__":
    main()
