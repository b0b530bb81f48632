"""A small Retro learns to read neighbors, from random weights, beside a GPT of equal size.

<out>/learning/text.jsonl    docstrings of the packages
<out>/learning/              a run; settings were chosen on the validation split, the test split is reported
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from retro.common.files import atomic_path, read_json
from retro.common.statistics import estimate_ratio
from retro.common.terminal import Table
from retro.corpus.reader import Corpus
from retro.init.training_choices import COPYING_TRAIN, SHAPES
from retro.pretrain.chunk_losses import TABLE_FILE, Perplexities
from retro.quickstart.acts import Options, Section, perplexity_text
from retro.quickstart.docstrings import installed_package, write_docstrings
from retro.report.figures import Series, line_chart
from retro.report.tables import new_table
from retro.run.config import RunConfig, as_yaml, run_config_of
from retro.run.documents import BY_WORDS, build
from retro.run.pipeline import stage
from retro.training.probe import read_probes

LEARNING = "learning"
_LABELS = {
    ("gpt_equal", "-"): "GPT of equal size",
    ("retro", "real"): "Retro, its own neighbors",
    ("retro", "shuffled"): "Retro, another chunk's neighbors",
    ("retro", "none"): "Retro, no neighbors",
}
_PROBES = {"its own neighbors": "probe_real", "another chunk's": "probe_shuffled", "none": "probe_none"}
_STAGES = ("corpus", "db", "index", "neighbors", "pretrain", "perplexity")
_CHUNKS_TOGETHER = 16
"""Resampled as one: 1,024 tokens, about one and a half documents, for tokens of one text are not independent draws."""


def run(options: Options) -> dict[str, Any]:
    """Train both models, or continue, and read what came of it.

    Returns:
        Perplexity of the test split by model and neighbors, with intervals; the curve of held-out losses over steps.

    Raises:
        DataError: A package is not installed.
    """
    folder = options.out / LEARNING
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.jsonl"
    counts = write_docstrings(text, [installed_package(name) for name in options.packages])
    config = learning_run(folder, text, options.steps)
    with atomic_path(folder / "run.yaml") as temporary:
        temporary.write_text(as_yaml(config), encoding="utf-8")
    build(config, _STAGES)
    return {
        "documents": counts.documents,
        "words": counts.words,
        "steps": config.train.steps,
        "tokens_trained": config.train.steps * config.train.global_batch * config.model.sequence_length,
        "seed": config.train.seed,
        "rows": perplexities(stage("perplexity").path(config), stage("corpus").path(config)),
        "curve": read_probes(stage("pretrain").path(config) / "retro" / "log.jsonl"),
    }


def learning_run(folder: Path, text: Path, steps: int) -> RunConfig:
    """A run of the smallest model of `retro init`, with a GPT of equal size beside it."""
    shaped = SHAPES[0]
    settings = {
        **BY_WORDS,
        "run_dir": folder,
        "corpus": {"sources": [{"name": "packages", "path": text}], "split": [0.9, 0.05, 0.05]},
        "model": shaped.settings,
        "train": {
            **COPYING_TRAIN,
            "steps": steps,
            "lr": shaped.lr,
            "micro_batch": shaped.micro_batch,
            "global_batch": shaped.global_batch,
            "precision": "float32",
            "probe_every": 25,
            "probe_samples": 24,
            "evaluate_every": 50,
        },
        "pretrain": {"baselines": ["gpt_equal"]},
        "perplexity": {"split": "test", "precision": "float32"},
    }
    return run_config_of(settings)


def perplexities(directory: Path, corpus_dir: Path) -> list[dict[str, Any]]:
    """The table of the perplexity stage, each row with the interval that holds 95 % of resamples of the text.

    Args:
        directory: Of the finished stage.
        corpus_dir: Of its corpus.
    """
    measured = Perplexities.open(directory, {})
    rows: list[dict[str, Any]] = read_json(directory / TABLE_FILE, f"Remove {directory}")["rows"]
    for row in rows:
        losses, tokens = list[float](), list[int]()
        for source in Corpus.open(corpus_dir).sources:
            loss_C, tokens_C = measured.losses(source, (row["model"], row["neighbors"]))
            starts = np.arange(0, len(loss_C), _CHUNKS_TOGETHER)
            losses += np.add.reduceat(loss_C, starts).tolist()
            tokens += np.add.reduceat(tokens_C, starts).tolist()
        there = [place for place, count in enumerate(tokens) if count]
        found = estimate_ratio(
            [losses[one] for one in there], [tokens[one] for one in there], samples=2000, confidence=0.95, seed=0
        )
        row |= {"low": math.exp(found.low), "high": math.exp(found.high)}
    return rows


def _table(act: Mapping[str, Any]) -> Table:
    title = f"Trained from random weights on {act['tokens_trained']:,} tokens: perplexity of the test split"
    made = new_table(title, "model", right=("weights", "perplexity"))
    for row in act["rows"]:
        label = _LABELS[row["model"], row["neighbors"]]
        made.add_row(label, f"{row['parameters'] / 1e6:.2f} M", perplexity_text(row))
    return made


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The act on the page."""
    act = results["learning"]
    what = (
        f"A Retro and a GPT of equal size, both from random weights, read the same {act['tokens_trained']:,} tokens "
        f"of {act['documents']:,} docstrings ({act['steps']} steps, seed {act['seed']}, one run each). Perplexity of "
        f"the test split, {act['rows'][0]['tokens']:,} tokens, with the range that holds 95 % of resamples of the "
        "text; settings were chosen on the validation split. A share of the neighbors was hidden from Retro in "
        "training, so that it does without where none are found; wrong ones mislead a model that copies."
    )
    held_out = [
        Series(name=name, points=_curve(act, probe), color=color, kind="dots")
        for color, (name, probe) in enumerate(_PROBES.items())
    ]
    differences = [
        Series(
            name=f"its own minus {one.name}",
            points=[
                (step, own - other) for (step, own), (_, other) in zip(held_out[0].points, one.points, strict=True)
            ],
            color=one.color,
            kind="dots",
        )
        for one in held_out[1:]
    ]
    charts = [
        _chart("Held-out loss while Retro trains", held_out),
        _chart("The difference: below 0, neighbors are read", differences),
    ]
    return [
        Section(
            title="3. Retro learns to read neighbors",
            note=what,
            table=_table(act),
            charts=charts,
            below="On sequences of the validation split.",
        )
    ]


def _curve(act: Mapping[str, Any], probe: str) -> list[tuple[float, float]]:
    return [(one["step"], one[probe]) for one in act["curve"]]


def _chart(title: str, lines: Sequence[Series]) -> tuple[str, Markup, list[tuple[str, int]]]:
    drawing = line_chart(lines, x_label="step", y_label="nats per token", label=title)
    return title, drawing, [(one.name, one.color) for one in lines]


def report(results: Mapping[str, Any]) -> tuple[Table | None, list[str]]:
    """The act at the terminal: a table."""
    return _table(results["learning"]), []
