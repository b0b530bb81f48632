"""Perplexity of pretrained models with real, shuffled and no neighbors: the proof, or not, that retrieval is used."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import (
    MANIFEST,
    REPORT,
    Manifest,
    describe_files,
    differences,
    is_complete,
    read_manifest,
    write_manifest,
)
from retro.common.block_stage import completed, fingerprints
from retro.common.config import config_json
from retro.common.errors import ArtifactError, ConfigError, DataError, TrainingError
from retro.common.files import write_json
from retro.common.precision import choose, is_bfloat16
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.mcore import parallel
from retro.model.count import count_parameters
from retro.neighbors.reader import Neighbors
from retro.pretrain.chunk_losses import CHUNKS_FILE, STAGE, TABLE_FILE, ChunkLosses, Columns, write_chunk_losses
from retro.pretrain.config import PerplexityConfig
from retro.pretrain.data import EvaluationSource, NeighborMode, SequenceReader
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.tokenizer import conventions_of
from retro.training import checkpoint
from retro.training.config import ParallelConfig, result_settings
from retro.training.validation import Validation, mean_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    model: str
    """The variant: retro, gpt, gpt_equal, or the checkpoint's directory."""
    neighbors: str
    """real, shuffled or none; "-" for a GPT."""
    perplexity: float
    """exp of the mean loss."""
    loss: float
    """Mean cross-entropy of a token, in nats."""
    tokens: int
    """Tokens asked for."""
    parameters: int
    """Weights of the model."""


def run(
    config: PerplexityConfig,
    layout: ParallelConfig,
    checkpoints: dict[str, Path],
    corpus_dir: Path,
    db_dir: Path,
    neighbors_dir: Path,
    out: Path,
) -> Manifest:
    """Measure every checkpoint and write the table, and beside it the losses of single chunks.

    Args:
        config: Split, neighbors, how much.
        layout: Processes.
        checkpoints: Name and directory of each model.
        corpus_dir: The corpus.
        db_dir: The chunk database.
        neighbors_dir: The neighbors; not opened when no checkpoint reads any.
        out: Where `perplexity.json` and `chunks.h5` go.

    Raises:
        ArtifactError: No checkpoint is given; something is missing, damaged or does not belong together.
        DataError: The split holds no text.
        TrainingError: A checkpoint was trained with another tokenizer or chunk length.
    """
    if not checkpoints:
        raise ArtifactError(out.parent, "holds no pretrained model to measure", "Run `retro pretrain` first")
    corpus = Corpus.open(corpus_dir)
    database = open_database(db_dir, corpus)
    infos = {name: checkpoint.read_info(checkpoint.find(path)) for name, path in checkpoints.items()}
    reading = any(info.shape.model.retrieval for info in infos.values())
    neighbors = Neighbors.open(neighbors_dir, database, corpus) if reading else None
    parents = {"corpus": corpus.manifest, "db": database.manifest}
    settings = {
        "perplexity": _own(config),
        "checkpoints": {
            name: [checkpoint.identity(info.path), config_json(info.shape)] for name, info in infos.items()
        },
    }
    if not _weights_changed(out, settings):
        made = completed(out, STAGE, settings, parents, compared=_with_precision)
        if made is not None:
            return made
    choice = parallel.from_first(choose(config.precision))
    if parallel.rank() == 0:
        choice.tell("perplexity.precision")
    config = config.model_copy(update={"precision": choice.precision})
    settings["perplexity"] = _own(config)
    started = time.monotonic()
    measured = [
        one
        for name, path in checkpoints.items()
        for one in _measure(name, path, config, layout, corpus, database, neighbors)
    ]
    rows = [row for row, _ in measured]
    manifest = Manifest(
        stage=STAGE,
        config=settings,
        parents=fingerprints(parents),
        counts={"rows": len(rows), "database_version": database.version},
    )
    if parallel.is_main():
        streams = evaluation_streams(corpus, database, config.split)
        losses = {(row.model, row.neighbors): columns for row, columns in measured}
        # What it says is of the weights before these.
        (out / MANIFEST).unlink(missing_ok=True)
        write_chunk_losses(out / CHUNKS_FILE, corpus, streams, losses)
        table = {"split": config.split, "precision": config.precision, "rows": [asdict(row) for row in rows]}
        write_json(out / TABLE_FILE, table)
        seconds = time.monotonic() - started
        write_json(out / REPORT, {"seconds": seconds, "tokens": sum(row.tokens for row in rows)} | choice.report)
        manifest = Manifest(**(asdict(manifest) | {"files": describe_files(out, [TABLE_FILE, CHUNKS_FILE])}))
        write_manifest(out, manifest)
    parallel.barrier()
    return manifest


def _own(config: PerplexityConfig) -> dict[str, Any]:
    """The settings that this measurement depends on: passages in the prompt are measured apart."""
    return {name: value for name, value in config_json(config).items() if name != "in_context"}


def _with_precision(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of perplexity as they are now: an older toolkit always computed in float32, and did not say so."""
    known = {"precision": "float32", "add_special_tokens": False}
    shapes = {name: [mark, result_settings(shape)] for name, (mark, shape) in settings["checkpoints"].items()}
    return {**settings, "perplexity": known | settings["perplexity"], "checkpoints": shapes}


def _weights_changed(out: Path, settings: dict[str, Any]) -> bool:
    """Whether all that differs from what was measured here is that the models were trained on since."""
    if not is_complete(out):
        return False
    made = read_manifest(out, STAGE).config
    before, now = made["checkpoints"], settings["checkpoints"]
    if before == now:
        return False
    shapes_before, shapes_now = ({name: [None, shape] for name, (_, shape) in known.items()} for known in (before, now))
    measured = _with_precision({**made, "checkpoints": shapes_before})
    if differences(measured, _with_precision({**settings, "checkpoints": shapes_now})):
        return False
    log.warning("%s: the models were trained on since they were measured; measuring them again", out)
    return True


def _measure(
    name: str,
    path: Path,
    config: PerplexityConfig,
    layout: ParallelConfig,
    corpus: Corpus,
    database: ChunkDatabase,
    neighbors: Neighbors | None,
) -> list[tuple[Row, list[Columns]]]:
    chunks, info = checkpoint.load_stage(path, layout, bfloat16=is_bfloat16(config.precision))
    shape = info.shape
    require_same_text(info, corpus, database)
    measured = []
    modes: tuple[NeighborMode, ...] = config.neighbors if shape.model.retrieval else ("none",)
    for mode in modes:
        reader = SequenceReader(
            corpus,
            database,
            neighbors,
            split=SPLITS.index(config.split),
            sequence_length=shape.model.sequence_length,
            neighbors_read=shape.model.neighbors,
            mode=mode,
            seed=config.seed,
            begin=next(iter(begin_tokens(config, corpus)), None),
        )
        source = EvaluationSource(reader)
        if source.samples == 0:
            problem = f"its {config.split} split holds no text to measure perplexity on"
            raise DataError(corpus.directory, problem, "Give corpus.split a larger share for it")
        samples = config.samples or source.samples
        everything = Validation(source=source, samples=source.samples)
        of_chunks = ChunkLosses(source)
        loss, tokens = mean_loss(chunks, shape, everything, samples, config.micro_batch, of_chunks.add)
        row = Row(
            model=name,
            neighbors=mode if shape.model.retrieval else "-",
            perplexity=math.exp(loss),
            loss=loss,
            tokens=tokens,
            parameters=count_parameters(shape).total,
        )
        log.info("perplexity %s, neighbors %s: %.2f over %d tokens", row.model, row.neighbors, row.perplexity, tokens)
        measured.append((row, of_chunks.by_source()))
    return measured


def begin_tokens(config: PerplexityConfig, corpus: Corpus) -> tuple[int, ...]:
    """The token that each sequence begins with, where one is wanted.

    Raises:
        ConfigError: The tokenizer adds several, or one is wanted and there is none.
    """
    setting = "perplexity.add_special_tokens"
    prefix = prompt_prefix(conventions_of(corpus.tokenizer), config.add_special_tokens, setting)
    if len(prefix) > 1:
        need = f"needs a tokenizer that adds one token, not {len(prefix)}"
        raise ConfigError(setting, config.add_special_tokens, need)
    return prefix


def evaluation_streams(corpus: Corpus, database: ChunkDatabase, split: str) -> list[TokenStream]:
    """The streams of a split, one for each source, cut into chunks of the database's length."""
    number = SPLITS.index(split)
    return [TokenStream(corpus, source, number, database.chunk_length) for source in range(len(corpus.sources))]


def require_same_text(info: checkpoint.CheckpointInfo, corpus: Corpus, database: ChunkDatabase) -> None:
    """Check that a model was trained with the tokenizer, and a Retro with the chunk length, of the data here.

    Raises:
        TrainingError: It was not.
    """
    if info.shape.vocabulary < corpus.tokenizer.vocab_size:
        raise TrainingError(
            f"{info.path}: has {info.shape.vocabulary:,} tokens, the text here {corpus.tokenizer.vocab_size:,}: it was "
            "made with another tokenizer. Make a corpus with the model's own (corpus.tokenizer.path)"
        )
    pairs = [("tokenizer", info.shape.tokenizer, corpus.tokenizer.fingerprint)]
    if info.shape.model.retrieval:
        pairs.append(("chunk length", str(info.shape.chunk_length), str(database.chunk_length)))
    for what, theirs, ours in pairs:
        if theirs and theirs != ours:
            raise TrainingError(
                f"{info.path}: was trained with {what} {theirs}, the data here has {ours}. "
                "Use the data it was trained on, or another checkpoint"
            )
