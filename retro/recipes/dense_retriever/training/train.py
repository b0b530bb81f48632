"""The steps `pretrain` and `train`.

`pretrain` learns from segments alone: two crops of one are a pair. `train` learns from questions and passages, and goes
on from what `pretrain` made unless `train.start` names another model. Both leave `model/`, `retriever.json` and
`curve.jsonl`, and run under torchrun in several processes.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.common.files import sha256_file
from retro.index.weights import find_model, weights_digest
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, read_pairs
from retro.recipes.dense_retriever.same_question import HeldOut
from retro.recipes.dense_retriever.training.batches import (
    CropBatches,
    PairBatches,
    pair_keys,
    plan_batches,
    refused_keys,
)
from retro.recipes.dense_retriever.training.config import PretrainConfig, StartConfig, TrainConfig
from retro.recipes.dense_retriever.training.fitting import Fit, fit
from retro.recipes.dense_retriever.training.mine import PASSAGES_FILE, TRAIN_FILE, VALID_FILE, held_out_of, start_of
from retro.recipes.dense_retriever.training.reader_scores import read_scores
from retro.recipes.dense_retriever.training.refresh import Refresher
from retro.recipes.passages.passages import Passages

log = logging.getLogger(__name__)

_WORDS = 100_000


def train(work: StepRun) -> Made:
    """Train on pairs.

    Raises:
        ConfigError: The batch is larger than what differs, or negatives are to be hard and there are none.
        RetroError: As `fit`.
    """
    config: TrainConfig = work.settings.train
    mined = work.made_by("mine") if work.settings.mine is not None else work.made_by("pairs")
    pairs, valid = read_pairs(mined / TRAIN_FILE), read_pairs(work.made_by("pairs") / VALID_FILE)
    labels = None
    if config.objective == "distillation":
        pairs, labels = read_scores(work.made_by("reader_scores"))
    start = start_of(work)
    _require_hard(config, pairs, mined / TRAIN_FILE)
    keys = [pair_keys(one) for one in pairs]
    refused = refused_keys(pairs)
    plan = plan_batches(keys, config.batch_size, config.seed, refused=refused, steps=config.steps, epochs=config.epochs)
    refresher = Refresher.of(work, config, pairs, start, plan.steps) if config.refresh_every else None
    own: list[Sequence[PairPassage]] = [one.negatives for one in pairs]
    batches = PairBatches(
        pairs=pairs, plan=plan, seed=config.seed, query_prefix=start.query_prefix, passage_prefix=start.passage_prefix,
        title=start.title, negatives=config.negatives, hard_share=config.hard_share,
        pool=(lambda _: own) if refresher is None else refresher.pool, labels=labels,
    )  # fmt: skip
    return fit(
        Fit(
            config=config, start=start, out=work.directory, words=lambda: _words(pairs), plan=plan,
            columns=batches.columns, valid=valid, made_of=_files(mined / TRAIN_FILE, work) | _weights_of(start),
            refresh=None if refresher is None else refresher.after, seen=lambda: asdict(batches.counts),
        )
    )  # fmt: skip


def _require_hard(config: TrainConfig, pairs: Sequence[Pair], path: Path) -> None:
    if config.negatives and config.hard_share and not any(one.negatives for one in pairs):
        need = f"needs hard negatives, and no pair of {path} has one: set `mine`, or hard_share to 0"
        raise ConfigError("train.negatives", config.negatives, need)


def _words(pairs: Sequence[Pair]) -> Iterator[str]:
    for one in pairs[:_WORDS]:
        yield one.question
        yield one.positive.title
        yield one.positive.text
        for negative in one.negatives:
            yield negative.text


def _files(pairs: Path, work: StepRun) -> dict[str, Any]:
    """Checksums of what the weights depend on."""
    found = {"pairs": sha256_file(pairs), "valid": sha256_file(work.made_by("pairs") / VALID_FILE)}
    if work.settings.train.objective == "distillation":
        found["scores"] = sha256_file(work.made_by("reader_scores") / "scores.jsonl")
    return found


def pretrain(work: StepRun) -> Made:
    """Train on crops of segments. Those of held-out documents, and copies of a text, are left out and counted.

    Raises:
        RetroError: As `fit`.
    """
    config: PretrainConfig = work.settings.pretrain
    path = work.made_by("segments") / PASSAGES_FILE
    valid = read_pairs(work.made_by("pairs") / VALID_FILE)
    start = config.start or StartConfig()
    passages = Passages.open(path, work.directory / ".passages")
    rows, counts = _usable(passages, held_out_of(work), path)
    plan = plan_batches(
        # Segments are all different: none has a key that another may not meet.
        [()] * len(rows),
        config.batch_size,
        config.seed,
        steps=config.steps,
        epochs=config.epochs,
    )
    batches = CropBatches(
        texts=lambda places: [one.text for one in passages.at([rows[place] for place in places])], plan=plan,
        seed=config.seed, passages=len(rows), smallest=config.crop_min, largest=config.crop_max,
        deletion=config.deletion, query_prefix=start.query_prefix, passage_prefix=start.passage_prefix,
    )  # fmt: skip
    made_of = {"segments": passages.fingerprint, "kept": len(rows), **_weights_of(start)}
    made = fit(
        Fit(
            config=config, start=start, out=work.directory, words=lambda: _segment_words(passages, rows), plan=plan,
            columns=batches.columns, valid=valid, made_of=made_of,
        )
    )  # fmt: skip
    return Made(files=made.files, counts={**made.counts, **counts}, report=made.report)


def _usable(passages: Passages, held_out: HeldOut, path: Path) -> tuple[array[int], dict[str, int]]:
    """Rows of segments to learn from; two of a batch are never equal, for equal ones are here once."""
    # Millions: 8 bytes a row, and 8-byte digests, of which two of 10^7 are equal with a chance below 1 in 10^5.
    rows, seen = array("q"), set[int]()
    counts = {"segments": 0, "held_out_segments": 0, "equal_segments": 0}
    for first in range(0, len(passages), 1024):
        part = range(first, min(first + 1024, len(passages)))
        for row, one in zip(part, passages.at(part), strict=True):
            key = int.from_bytes(hashlib.blake2b(one.text.encode(), digest_size=8).digest(), "little")
            if held_out.has(one.id, one.title, one.text):
                counts["held_out_segments"] += 1
            elif key in seen:
                counts["equal_segments"] += 1
            else:
                seen.add(key)
                rows.append(row)
    counts["segments"] = len(rows)
    if not rows:
        raise DataError(path, f"has no segment to learn from ({counts})", "Give segments of documents not held out")
    if not counts["held_out_segments"]:
        log.warning("pretrain: no segment of %s is held out: none is of a held-out document, by id or title", path)
    return rows, counts


def _segment_words(passages: Passages, rows: Sequence[int]) -> Iterator[str]:
    for first in range(0, min(len(rows), _WORDS), 1024):
        yield from (one.text for one in passages.at(rows[first : first + 1024]))


def _weights_of(start: StartConfig) -> dict[str, Any]:
    """SHA-256 of the weights that a training starts from, where a folder has them."""
    return {} if start.tiny is not None else {"start": weights_digest(find_model(start.embedder))}


def _needs_of_train(settings: Any) -> tuple[str, ...]:
    config: TrainConfig = settings.train
    return (
        "pairs",
        *(("pretrain",) if settings.pretrain is not None and config.start is None else ()),
        *(("mine",) if settings.mine is not None else ()),
        *(("reader_scores",) if config.objective == "distillation" else ()),
        *(("segments",) if config.refresh_every else ()),
    )


PRETRAIN = Step(
    name="pretrain",
    summary="Train an encoder on crops of segments, without questions.",
    run=pretrain,
    collective=True,
    needs=("segments", "pairs"),
    settings=("pretrain",),
    facts=lambda work: _weights_of(work.settings.pretrain.start or StartConfig()),
    wanted=lambda settings: settings.pretrain is not None,
)
TRAIN = Step(
    name="train",
    summary="Train the retriever on questions and passages.",
    run=train,
    collective=True,
    needs=_needs_of_train,
    settings=("train", "pretrain", "mine"),
    facts=lambda work: _weights_of(start_of(work)),
)
