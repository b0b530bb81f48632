"""The page, the numbers and the drawing of `overlap`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import FOLDER, write
from retro.analysis.leakage.overlaps import Overlaps
from retro.analysis.neighbor_overlap import RunNeighbors, compare_neighbors
from retro.common.artifacts import is_complete
from retro.common.files import read_json
from retro.common.statistics import estimate_ratio
from retro.corpus.reader import Corpus
from retro.db.versions import open_database
from retro.neighbors.reader import Neighbors
from retro.pretrain.chunk_losses import Perplexities
from retro.run.pipeline import stage

if TYPE_CHECKING:
    from benchmarks.overlap import Experiment
    from retro.run.config import RunConfig

matplotlib.use("agg")

# Dims in this file. C chunks of the test split

Floats = NDArray[np.float64]
OVERLAPS = ("0", "0.25", "0.5", "0.75", "1", "mixed")
SEARCHES = ("bm25", "dense", "hybrid")
SWAPPED = "mixed"
"""The overlap of the models that read other databases too."""
STORED, SHARES = "0.75", (0.03, 0.1, 0.3)
"""The overlap of the smaller databases, and the shares of the documents that they hold."""
SPLIT, READ, TOGETHER = "test", 2, 16
"""Chunks of 64 tokens that are resampled as one, for the tokens of a text are not independent."""
BINS = (0.0, 0.05, 0.125, 0.25, 0.5, 1.0)
"""Shares of a chunk that stand in one piece in a neighbor read."""
NEIGHBORS = ("real", "shuffled", "none")
_SHOWN = {"real": "own neighbors", "shuffled": "another chunk's", "none": "no neighbors"}
GPT = ("gpt_equal", "-")


@dataclass(frozen=True)
class ChunkTable:
    """What one run's models lose on each chunk of the test split."""

    losses: dict[tuple[str, str], Floats]
    """[C] summed loss in nats, by model and neighbors."""
    tokens_C: Floats


def chunk_table(config: RunConfig) -> ChunkTable:
    """Read the losses of one run; the last, cut chunk is left out."""
    measured = Perplexities.open(stage("perplexity").path(config), {})
    losses: dict[tuple[str, str], Floats] = {}
    tokens_C = np.zeros(0)
    for row in measured.rows:
        loss, tokens = measured.losses("text", row)
        losses[row], tokens_C = np.asarray(loss[:-1]), np.asarray(tokens[:-1], dtype=np.float64)
    return ChunkTable(losses, tokens_C)


def run_neighbors(config: RunConfig, store: RunConfig) -> RunNeighbors:
    """Neighbors of a run in another run's database."""
    corpus = Corpus.open(stage("corpus").path(config))
    db = open_database(stage("db").path(store), corpus)
    return RunNeighbors(config.run_dir, corpus, db, Neighbors.open(stage("neighbors").path(config), db, corpus))


def longest_shared(found: RunNeighbors) -> Floats:
    """[C] share of each chunk that stands in one piece in a neighbor read while it is predicted."""
    overlaps = Overlaps(found.corpus, found.db, found.neighbors, SPLIT)
    stream = overlaps.stream(0)
    _, read_CK = overlaps.with_neighbors(0, range(stream.chunks), lambda _: None)
    shared: Floats = read_CK[:, :READ].max(axis=1) / stream.chunk_length
    return shared


def _perplexity(loss_C: Floats, tokens_C: Floats) -> float:
    return float(math.exp(loss_C.sum() / tokens_C.sum()))


def change(mine: Sequence[Floats], gpt: Sequence[Floats], tokens_C: Floats) -> dict[str, float]:
    """Perplexity beside the GPT's, as a share: the mean over seeds, its interval over text, and each seed's."""
    difference_C = np.mean([one - other for one, other in zip(mine, gpt, strict=True)], axis=0)
    starts = np.arange(0, len(difference_C), TOGETHER)
    found = estimate_ratio(
        np.add.reduceat(difference_C, starts).tolist(), np.add.reduceat(tokens_C, starts).tolist(),
        samples=2000, confidence=0.95, seed=0,
    )  # fmt: skip
    seeds = [math.expm1((one - other).sum() / tokens_C.sum()) for one, other in zip(mine, gpt, strict=True)]
    return {
        "mean": math.expm1(found.mean), "low": math.expm1(found.low), "high": math.expm1(found.high),
        "least": min(seeds), "most": max(seeds),
    }  # fmt: skip


def rows_of(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """A row for each search and overlap that is there, in the order of the overlaps."""
    gpt = _tables(experiment, "bm25", "0")
    for search in SEARCHES:
        for overlap in OVERLAPS:
            tables = {seed: one for seed, one in _tables(experiment, search, overlap).items() if seed in gpt}
            if not tables:
                continue
            neighbors = run_neighbors(experiment.run(search, overlap), experiment.store(search, overlap))
            found = compare_neighbors(neighbors, None, k=READ, splits=[SPLIT])
            tokens_C = next(iter(tables.values())).tokens_C
            base = [gpt[seed].losses[GPT] for seed in tables]
            own = {name: [one.losses["retro", name] for one in tables.values()] for name in NEIGHBORS}
            yield {
                "search": search,
                "overlap": overlap,
                "seeds": sorted(tables),
                "distinct": found["splits"][SPLIT]["unigram"]["a"]["mean"],
                "longest": found["splits"][SPLIT]["longest"]["a"]["mean"],
                "gpt": _mean([_perplexity(one, tokens_C) for one in base]),
                **{name: _mean([_perplexity(one, tokens_C) for one in own[name]]) for name in NEIGHBORS},
                "change": {name: change(own[name], base, tokens_C) for name in NEIGHBORS},
                "bins": list(_bins(own, base, tokens_C, longest_shared(neighbors))),
            }


def swaps_of(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """What the models trained on `mixed` make of other databases: other overlaps, then fewer documents."""
    gpt = _tables(experiment, "bm25", "0")
    others = [(one, 1.0) for one in OVERLAPS if one != SWAPPED] + [(STORED, share) for share in SHARES]
    for overlap, share in others:
        configs = {seed: experiment.swapped(seed, overlap, share) for seed in gpt}
        tables = {seed: chunk_table(one) for seed, one in configs.items() if is_complete(stage("perplexity").path(one))}
        if not tables:
            continue
        tokens_C = next(iter(tables.values())).tokens_C
        base = [gpt[seed].losses[GPT] for seed in tables]
        own = {name: [one.losses["retro", name] for one in tables.values()] for name in NEIGHBORS}
        db = read_json(stage("db").path(experiment.store("bm25", overlap, share)) / "manifest.json", "Build it again")
        yield {
            "overlap": overlap,
            "share": share,
            "seeds": sorted(tables),
            "chunks": db["counts"]["rows"],
            **{name: _mean([_perplexity(one, tokens_C) for one in own[name]]) for name in NEIGHBORS},
            "change": change(own["real"], base, tokens_C),
        }


def _tables(experiment: Experiment, search: str, overlap: str) -> dict[int, ChunkTable]:
    found = {}
    for folder in sorted(experiment.folder.glob(f"{search}_{overlap}_*")):
        seed = int(folder.name.rpartition("_")[2])
        config = experiment.run(search, overlap, seed)
        if is_complete(stage("perplexity").path(config)):
            found[seed] = chunk_table(config)
    return found


def _bins(
    own: dict[str, list[Floats]], gpt: list[Floats], tokens_C: Floats, shared_C: Floats
) -> Iterator[dict[str, Any]]:
    for low, high in pairwise(BINS):
        inside_C = (shared_C > low if low else shared_C >= 0) & (shared_C <= high)
        if inside_C.sum() >= TOGETHER:
            kept = {name: [one[inside_C] for one in own[name]] for name in NEIGHBORS}
            base = [one[inside_C] for one in gpt]
            yield {
                "low": low,
                "high": high,
                "chunks": int(inside_C.sum()),
                "gpt": _mean([_perplexity(one, tokens_C[inside_C]) for one in base]),
                **{n: _mean([_perplexity(one, tokens_C[inside_C]) for one in kept[n]]) for n in NEIGHBORS},
                "change": change(kept["real"], base, tokens_C[inside_C]),
            }


def _mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def write_page(experiment: Experiment, machine: str) -> Path:
    """Write page, numbers and drawing of all that is there."""
    rows, swaps = list(rows_of(experiment)), list(swaps_of(experiment))
    _draw(rows, FOLDER / "overlap.svg")
    about = _about(experiment)
    return write(
        "overlap", _page(rows, swaps, about, machine), {"machine": machine, **about, "rows": rows, "swaps": swaps}
    )


def _about(experiment: Experiment) -> dict[str, Any]:
    config = next(
        experiment.run("bm25", "0", seed) for seed in range(1, 100)
        if is_complete(stage("perplexity").path(experiment.run("bm25", "0", seed)))
    )  # fmt: skip
    table = read_json(stage("perplexity").path(config) / "perplexity.json", "Train again")["rows"]
    weights = {row["model"]: row["parameters"] for row in table}
    corpus = Corpus.open(stage("corpus").path(config))
    return {
        "packages": list(experiment.packages),
        "steps": experiment.steps,
        "trained_tokens": experiment.steps * config.train.global_batch * config.model.sequence_length,
        "corpus_tokens": int(corpus.manifest.counts["tokens"]),
        "test_tokens": table[0]["tokens"],
        "weights": weights,
    }


def _page(rows: list[dict[str, Any]], swaps: list[dict[str, Any]], about: dict[str, Any], machine: str) -> str:
    weights = {name: f"{count / 1e6:.2f} M" for name, count in about["weights"].items()}
    lines = [
        "# What retrieval is worth, by overlap",
        "",
        f"Machine: {machine}; shared with other work, which changes no figure here.",
        "",
        *_wrapped(
            f"""Text: docstrings of {", ".join(about["packages"])} ({about["corpus_tokens"]:,} tokens). The database
            holds a version of each document, never the document: pieces of eight words are kept with
            probability p, and replaced by a piece of another document otherwise (*mixed*: p drawn anew for each
            document). A Retro of {weights["retro"]} weights reads the two best neighbors of each chunk, in
            training and on the test split; a GPT of {weights["gpt_equal"]} weights reads the same text in the
            same order: {about["trained_tokens"]:,} tokens, from random weights. Perplexity of the test split
            ({about["test_tokens"]:,} tokens), mean of the seeds. Settings are those of `retro quickstart
            learning`, chosen on other neighbors and validation text; the test split was used for this page
            alone."""
        ),
        "",
        "```",
        f"python -m benchmarks.overlap runs/overlap --steps {about['steps']}",
        "```",
        "",
        "![Perplexity by overlap](overlap.svg)",
        "",
        *_wrapped(
            """*Distinct*: of the distinct tokens of the next chunk, those that a neighbor read has. *Longest*:
            tokens of its longest piece that stands in one. *Change*: perplexity beside the GPT's of the same
            seed, with the interval that holds 95 % of resamples of the text; *seeds*: how many, and the least
            and greatest change."""
        ),
        "",
        "| search | p | distinct | longest | GPT | real | shuffled | none | change with real neighbors | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.1f}" for name in ("gpt", *NEIGHBORS))
        measured = f"{row['distinct']:.1%} | {row['longest']:.1f}"
        seeds = f"{len(row['seeds'])}: {_percent(row['change']['real'], 'least', 'most')}"
        change_ = _change(row["change"]["real"])
        lines.append(f"| {row['search']} | {row['overlap']} | {measured} | {numbers} | {change_} | {seeds} |")
    for row in rows:
        if row["overlap"] == "mixed" and row["search"] == "bm25":
            lines += _bins_table(row)
    lines += _swaps_table(swaps, about["weights"]["retro"])
    return "\n".join([*lines, "", *_words(rows)]) + "\n"


def _swaps_table(swaps: list[dict[str, Any]], weights: int) -> Iterator[str]:
    if not swaps:
        return
    yield from (
        "",
        "## The same models, other databases",
        "",
        *_wrapped(
            """The models trained on *mixed* read another database on the test split; nothing is trained again.
            First whole databases of other overlaps, then the database of p = 0.75 with a share of its
            documents; *tokens a weight*: chunks of 64 tokens in the database, beside the weights of the model."""
        ),
        "",
        "| p | documents | tokens a weight | real | shuffled | none | change with real neighbors | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    )
    whole = [one for one in swaps if one["share"] == 1]
    sizes = sorted((one for one in swaps if one["share"] != 1), key=lambda one: -one["share"])
    for one in [*whole, *sizes]:
        numbers = " | ".join(f"{one[name]:.1f}" for name in NEIGHBORS)
        size = f"{one['share']:.0%} | {64 * one['chunks'] / weights:.2f}"
        yield f"| {one['overlap']} | {size} | {numbers} | {_change(one['change'])} | {len(one['seeds'])} |"


def _bins_table(row: dict[str, Any]) -> Iterator[str]:
    yield from (
        "",
        "## One model, chunk by chunk",
        "",
        *_wrapped(
            "The models trained on *mixed*, by the share of a chunk that stands in one piece in a neighbor read:"
        ),
        "",
        "| share | chunks | GPT | real | shuffled | none | change with real neighbors |",
        "|---|---:|---:|---:|---:|---:|---:|",
    )
    for one in row["bins"]:
        numbers = " | ".join(f"{one[name]:.1f}" for name in ("gpt", *NEIGHBORS))
        share = f"{one['low']:.1%} to {one['high']:.1%}"
        yield f"| {share} | {one['chunks']:,} | {numbers} | {_change(one['change'])} |"


def _words(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the figures say, computed from them."""
    yield "## In words"
    yield ""
    graded = [row for row in rows if row["search"] == "bm25" and row["overlap"] != "mixed"]
    better = [row["overlap"] for row in graded if row["change"]["real"]["high"] < 0]
    worse = [row["overlap"] for row in graded if row["change"]["real"]["low"] > 0]
    said = f"better than the GPT beyond chance at p = {', '.join(better) or 'none'}"
    yield f"* With real neighbors {said}; worse at {', '.join(worse) or 'none'}."
    for row in graded:
        first, *others = sorted(NEIGHBORS, key=lambda name: row[name])
        said = first
        for one, other in pairwise([first, *others]):
            said += f" {'<' if row[other] > _SAME * row[one] else '='} {other}"
        yield f"* p = {row['overlap']}: {said}."
    yield ""
    yield from _wrapped(_LIMITS)


_SAME = 1.005
_LIMITS = """
What this shows, and what it cannot: the text is real, the overlap is made, so that nothing else differs. A model of a
million weights that is initialized as a look-up learns to copy within minutes, and little else; it pays where enough
of the next chunk stands in its neighbors, and costs perplexity where it does not, more than a GPT that never reads.
That overlap decides, above a threshold, is what Doostmohammadi and Kuhlmann report of a GPT of 345 million weights
retro-fitted (arXiv:2505.14309); how large the gain is, and whether a larger model learns more than copying, cannot be
read off here. Models were trained with two fifths of their neighbors hidden."""


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 120)


def _change(one: dict[str, float]) -> str:
    return f"{one['mean']:+.1%} ({_percent(one, 'low', 'high')})"


def _percent(one: dict[str, float], low: str, high: str) -> str:
    return f"{one[low]:+.1%} to {one[high]:+.1%}"


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    graded = [row for row in rows if row["search"] == "bm25" and row["overlap"] != "mixed"]
    x = [float(row["overlap"]) for row in graded]
    axes.plot(x, [row["gpt"] for row in graded], color="black", linewidth=1, label="GPT")
    for (name, label), color in zip(_SHOWN.items(), ("#1b6ca8", "#c0392b", "#7f8c8d"), strict=True):
        y = [row[name] for row in graded]
        ends = [[row["gpt"] * (1 + row["change"][name][end]) for row in graded] for end in ("low", "high")]
        errors = [[abs(one - other) for one, other in zip(y, end, strict=True)] for end in ends]
        axes.errorbar(x, y, yerr=errors, color=color, marker="o", markersize=4, capsize=3, label=label)
    axes.set_yscale("log")
    axes.set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes.set_xlabel("share of each document that its version in the database keeps, p")
    axes.set_ylabel("perplexity of the test split")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
