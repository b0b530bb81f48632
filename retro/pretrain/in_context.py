"""Perplexity with passages in the prompt: what a search is worth to any model, whether or not it has an encoder.

In-Context RALM (Ram et al. 2023, arXiv:2302.00083): before every `stride` tokens, search with the ones before them and
put what is found in front of the text. Conditions differ in what is there and in nothing else; they score the same
tokens, so differences are taken document by document.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest
from retro.common.block_stage import fingerprints
from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError
from retro.common.files import read_json, write_json
from retro.common.precision import choose, is_bfloat16
from retro.common.progress import Progress
from retro.common.statistics import estimate_ratio, sign_flips
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.index.config import SearchConfig
from retro.index.search import TextSearch, open_search
from retro.mcore import parallel
from retro.model.config import ModelShape
from retro.neighbors.reader import Neighbors
from retro.pretrain.chunk_losses import IN_CONTEXT_FILE
from retro.pretrain.config import CONDITIONS, Condition, InContextConfig, PerplexityConfig
from retro.pretrain.in_context_data import (
    DocumentLosses,
    Lengths,
    PromptSource,
    Targets,
    all_targets,
    lengths_of,
    spread,
)
from retro.pretrain.in_context_passages import OtherDocuments, of_neighbors, of_search, shown_documents, shuffled
from retro.pretrain.perplexity import begin_tokens, evaluation_streams, require_same_text
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.validation import Validation, mean_loss

# Dims in this file. D documents


Losses = tuple[NDArray[np.float64], NDArray[np.int64]]
"""[D] summed loss and [D] scored tokens."""


@dataclass(frozen=True)
class Summary:
    """Takes means over documents, the tokens of one document being no independent draws."""

    settings: InContextConfig
    seed: int

    def rows(self, model: str, losses: Mapping[Condition, Losses]) -> list[dict[str, Any]]:
        """Loss and perplexity under each condition; no interval where there is a single document."""
        return [self._row(model, condition, *mine) for condition, mine in losses.items()]

    def _row(
        self, model: str, condition: Condition, loss_D: NDArray[np.float64], tokens_D: NDArray[np.int64]
    ) -> dict[str, Any]:
        found = self._estimate(loss_D, tokens_D)
        perplexities = {key: None if value is None else math.exp(value) for key, value in found.items()}
        return {
            "model": model,
            "passages": condition,
            "loss": found["mean"],
            "perplexity": perplexities["mean"],
            "low": perplexities["low"],
            "high": perplexities["high"],
            "tokens": int(tokens_D.sum()),
            "documents": int((tokens_D > 0).sum()),
        }

    def differences(self, model: str, losses: Mapping[Condition, Losses]) -> list[dict[str, Any]]:
        """What is found against every other condition, in nats per token: below 0, it helps."""
        if "found" not in losses:
            return []
        loss_D, tokens_D = losses["found"]
        there_D = tokens_D > 0
        return [
            {"model": model, "passages": "found", "minus": other}
            | self._estimate(loss_D - theirs_D, tokens_D)
            | {"test": "sign_flips", "p_value": sign_flips((loss_D - theirs_D)[there_D].tolist(), self.seed)}
            for other, (theirs_D, _) in losses.items()
            if other != "found"
        ]

    def _estimate(self, totals_D: NDArray[np.float64], tokens_D: NDArray[np.int64]) -> dict[str, float | None]:
        there_D = tokens_D > 0
        found = estimate_ratio(
            totals_D[there_D].tolist(),
            tokens_D[there_D].tolist(),
            samples=self.settings.bootstrap_samples,
            confidence=self.settings.confidence,
            seed=self.seed,
        )
        single = found.count < 2
        return {"mean": found.mean, "low": None if single else found.low, "high": None if single else found.high}


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievedContext:
    """What is before the targets, for prompts of given lengths."""

    targets: Targets
    passages: Mapping[Condition, NDArray[np.int64]]
    """[T, P] rows of the database; nothing for conditions without passages."""
    without: int
    """Targets for which nothing was found."""
    own_when_shuffled: int
    """Targets that had to be given passages found for a document that they show themselves."""


@dataclass(frozen=True)
class Measurement:
    """What is measured, everything opened; see `prepare`."""

    config: PerplexityConfig
    settings: InContextConfig
    layout: ParallelConfig
    infos: Mapping[str, checkpoint.CheckpointInfo]
    corpus: Corpus
    database: ChunkDatabase
    neighbors: Neighbors | None
    """Where passages come from, if not from a search."""
    search: TextSearch | None
    """Where they come from, if they are searched for now."""
    streams: Sequence[TokenStream]
    separator: Sequence[int]
    begin: Sequence[int]
    """What every prompt begins with."""

    def lengths(self, shape: ModelShape) -> Lengths:
        """Of the prompts of a model; raises ConfigError where they do not fit."""
        return lengths_of(self.settings, shape, self.database, len(self.separator), len(self.begin))

    @property
    def described(self) -> dict[str, Any]:
        """What numbers depend on."""
        parents = {"corpus": self.corpus.manifest, "db": self.database.manifest}
        return {
            "settings": config_json(self.settings)
            | {"split": self.config.split, "seed": self.config.seed, "begin": list(self.begin)},
            "checkpoints": {name: checkpoint.identity(info.path) for name, info in self.infos.items()},
            "parents": fingerprints(parents | self._origin()),
        }

    def _origin(self) -> dict[str, Manifest]:
        """Where passages come from."""
        if self.neighbors is not None:
            return {"neighbors": self.neighbors.manifest}
        return {} if self.search is None else dict(self.search.parents)

    def find(self, lengths: Lengths) -> RetrievedContext:
        """Search, on the first rank for all."""
        targets = spread(all_targets(self.streams, lengths.stride, self.settings.text), self.settings.targets)
        if not len(targets):
            problem = f"its {self.config.split} split has no text of more than {lengths.stride} tokens"
            raise DataError(self.corpus.directory, problem, "Give more text, or a smaller perplexity.in_context.stride")
        if not {"found", "shuffled"} & set(self.settings.conditions):
            return RetrievedContext(targets, {}, 0, 0)
        return parallel.from_first(
            self._find(targets, lengths) if parallel.rank() == 0 else RetrievedContext(targets, {}, 0, 0)
        )

    def _find(self, targets: Targets, lengths: Lengths) -> RetrievedContext:
        shown = shown_documents(self.streams, targets, max(lengths.prefix, lengths.query))
        others = OtherDocuments(self.database, self.streams, targets, shown, self.settings.passages)
        everything = np.arange(len(targets), dtype=np.int64)
        if self.search is not None:
            ids_TP = of_search(self.search, self.streams, targets, lengths.query, others)
        elif self.neighbors is not None:
            split = SPLITS.index(self.config.split)
            ids_TC = of_neighbors(self.neighbors, split, targets, self.database.chunk_length)
            ids_TP = others.keep(everything, ids_TC)
        else:
            raise ValueError("passages are wanted, and there is nowhere to have them from")
        other_TP, own = shuffled(ids_TP, targets, shown, self.config.seed)
        passages: dict[Condition, NDArray[np.int64]] = {"found": ids_TP, "shuffled": others.keep(everything, other_TP)}
        return RetrievedContext(targets, passages, int((ids_TP < 0).all(axis=1).sum()), own)


def prepare(
    config: PerplexityConfig,
    layout: ParallelConfig,
    checkpoints: Mapping[str, Path],
    corpus_dir: Path,
    db_dir: Path,
    neighbors_dir: Path,
    index_dir: Path,
    search: SearchConfig,
) -> Measurement | None:
    """Open what is to be measured and check that it fits, before any model computes; None where nothing is asked for.

    Args:
        config: `in_context` in it; split, micro batch, precision and seed as for perplexity.
        layout: Processes.
        checkpoints: Name and directory of each model.
        corpus_dir: The corpus.
        db_dir: The chunk database.
        neighbors_dir: Opened where passages come from there.
        index_dir: Likewise.
        search: By what the index is searched.

    Raises:
        ArtifactError: Something is missing, damaged or does not belong together.
        ConfigError: Prompts do not fit a model.
        TrainingError: A checkpoint was trained with another tokenizer or chunk length.
    """
    settings = config.in_context
    if settings is None:
        return None
    corpus = Corpus.open(corpus_dir)
    database = open_database(db_dir, corpus)
    source = settings.search if {"found", "shuffled"} & set(settings.conditions) else None
    made = Measurement(
        config=config,
        settings=settings,
        layout=layout,
        infos={name: checkpoint.read_info(checkpoint.find(path)) for name, path in checkpoints.items()},
        corpus=corpus,
        database=database,
        neighbors=Neighbors.open(neighbors_dir, database, corpus) if source == "neighbors" else None,
        search=open_search(search, index_dir, database) if source == "live" else None,
        streams=evaluation_streams(corpus, database, config.split),
        separator=corpus.tokenizer.encode(settings.separator) if settings.separator else (),
        begin=begin_tokens(config, corpus),
    )
    if made.neighbors is not None and settings.passages > made.neighbors.saved:
        need = f"needs at most {made.neighbors.saved}, as many as neighbors.saved; or perplexity.in_context.search=live"
        raise ConfigError("perplexity.in_context.passages", settings.passages, need)
    for info in made.infos.values():
        require_same_text(info, corpus, database)
        made.lengths(info.shape)
    return made


def run(measurement: Measurement, out: Path) -> dict[str, Any]:
    """Measure, or find it measured; what was measured otherwise before is replaced.

    Args:
        measurement: As `prepare` gives it.
        out: Where `in_context.json` goes.

    Returns:
        What it holds: "measured" (what the numbers depend on), "rows", "differences", "prompts".
    """
    path = out / IN_CONTEXT_FILE
    described = measurement.described
    remedy = f"Delete {path} and run `retro perplexity` again"
    made = parallel.from_first(read_json(path, remedy) if path.exists() else None)
    if made is not None:
        if made.get("measured") == described:
            log.info("perplexity in context: already complete in %s", path)
            return dict(made)
        log.warning("%s: was measured otherwise (settings, models or data); measuring again", path)
    summary = Summary(measurement.settings, measurement.config.seed)
    choice = parallel.from_first(choose(measurement.config.precision))
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    prompts: dict[str, Any] = {}
    for name, info in measurement.infos.items():
        chunks, _ = checkpoint.load_stage(info.path, measurement.layout, bfloat16=is_bfloat16(choice.precision))
        lengths = measurement.lengths(info.shape)
        found = measurement.find(lengths)
        losses = {
            condition: _measure(measurement, condition, name, info.shape, chunks, lengths, found)
            for condition in CONDITIONS
            if condition in measurement.settings.conditions
        }
        rows += summary.rows(name, losses)
        differences += summary.differences(name, losses)
        counts = {"targets": len(found.targets), "without_passages": found.without}
        prompts[name] = asdict(lengths) | counts | {"own_when_shuffled": found.own_when_shuffled}
    result = {
        "measured": described,
        "split": measurement.config.split,
        "precision": choice.precision,
        "rows": rows,
        "differences": differences,
        "prompts": prompts,
    }
    if parallel.is_main():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    parallel.barrier()
    return result


def _measure(
    measurement: Measurement,
    condition: Condition,
    name: str,
    shape: ModelShape,
    chunks: Sequence[Any],
    lengths: Lengths,
    found: RetrievedContext,
) -> Losses:
    """Losses under one condition, document by document."""
    layout = measurement.layout
    source = PromptSource(
        measurement.streams,
        found.targets,
        prefix=lengths.prefix + (lengths.room if condition == "more_text" else 0),
        length=lengths.prompt(condition, layout.tensor if layout.sequence else 1),
        eod=measurement.corpus.tokenizer.eod,
        database=measurement.database,
        passages_TP=found.passages.get(condition),
        separator=measurement.separator,
        begin=measurement.begin,
    )
    documents = DocumentLosses(measurement.streams, found.targets)
    everything = Validation(source=source, samples=len(found.targets))
    with Progress(len(found.targets), what=f"{name}, {condition.replace('_', ' ')}", unit="prompts") as bar:

        def seen(numbers_B: NDArray[np.int64], losses: NDArray[np.float32], mask: NDArray[np.float32]) -> None:
            documents.add(numbers_B, losses, mask)
            bar.advance(int((numbers_B >= 0).sum()))

        loss, tokens = mean_loss(chunks, shape, everything, len(found.targets), measurement.config.micro_batch, seen)
    log.info("perplexity %s, %s in the prompt: %.2f over %d tokens", name, condition, math.exp(loss), tokens)
    return documents.by_document()
