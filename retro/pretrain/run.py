"""The pretraining stage: Retro, and the baselines asked for, on the same tokens in the same order.

    5_pretrain/<variant>/config.json, log.jsonl, checkpoints/, result.json
    5_pretrain/manifest.json

Variants are `retro` (or `gpt` when retrieval is off), and the baselines `gpt` and `gpt_equal`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from retro.common.artifacts import MANIFEST, REPORT, Manifest, write_manifest
from retro.common.block_stage import completed, fingerprints
from retro.common.config import config_json
from retro.common.files import write_json
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import equal_gpt, plain_gpt
from retro.neighbors.reader import Neighbors
from retro.pretrain.config import PretrainConfig
from retro.pretrain.data import EvaluationSource, SequenceReader, TrainingSource
from retro.training.config import ParallelConfig, TrainConfig, result_settings
from retro.training.loop import RATES, Result, finished_result, train
from retro.training.precision import choose_for_training
from retro.training.result import write_result
from retro.training.resume_rules import has_steps_left, record_run, require_same_run, with_recorded_warmup
from retro.training.validation import Validation

log = logging.getLogger(__name__)

STAGE = "pretrain"
TRAIN, VALID = 0, 1


def run(
    config: PretrainConfig,
    model: ModelConfig,
    training: TrainConfig,
    layout: ParallelConfig,
    corpus_dir: Path,
    db_dir: Path,
    neighbors_dir: Path,
    out: Path,
) -> Manifest:
    """Pretrain every variant, or continue where a stopped run left off.

    Raises:
        ArtifactError: An earlier artifact is missing or belongs to another run, or `out` was trained differently.
        DataError: The corpus is shorter than one sequence.
        ConfigError: Sequence length, batch and processes do not fit together.
        TrainingError: The loss is not finite, or `start_from` is another architecture.
    """
    corpus = Corpus.open(corpus_dir)
    database = open_database(db_dir, corpus)
    if model.retrieval:
        database.require_chunks("a Retro model")
    neighbors = Neighbors.open(neighbors_dir, database, corpus) if model.retrieval else None
    parents = {"corpus": corpus.manifest, "db": database.manifest}
    if neighbors is not None:
        parents["neighbors"] = neighbors.manifest
    shape = model_shape(model, corpus, database)
    training = with_recorded_warmup(training, (out / name for name, _ in variants(config, shape)), "train")
    settings = {"pretrain": config_json(config), "model": config_json(model), "train": config_json(training)}
    made = completed(out, STAGE, settings, parents, compared=result_settings)
    if made is not None and not has_steps_left(out, made.config["train"], training, "train"):
        return made
    choice = choose_for_training(training.precision, out.glob("*/"), "train.precision")
    training = training.model_copy(update={"precision": choice.precision})
    settings["train"] = config_json(training)
    for one in (corpus, database.corpus):
        one.advise(training.reading)
    data = _Data(corpus=corpus, database=database, neighbors=neighbors)
    results, rates = {}, {}
    for variant, variant_shape in variants(config, shape):
        result = _train_variant(out / variant, variant, variant_shape, config, training, layout, data)
        values = asdict(result)
        rates[variant] = {name: values.pop(name) for name in RATES}
        results[variant] = values
    manifest = Manifest(
        stage=STAGE,
        config=settings,
        parents=fingerprints(parents),
        counts={"variants": results},
    )
    if parallel.is_main():
        seconds = sum(rate["seconds"] for rate in rates.values())
        write_json(out / REPORT, {"variants": rates, "seconds": seconds} | choice.report)
        write_manifest(out, manifest)
    parallel.barrier()
    return manifest


def model_shape(model: ModelConfig, corpus: Corpus, database: ChunkDatabase) -> ModelShape:
    """The model with the sizes that corpus and database fix."""
    return ModelShape(
        model=model,
        vocabulary=corpus.tokenizer.vocab_size,
        chunk_length=database.chunk_length,
        tokenizer=corpus.tokenizer.fingerprint,
        database=database.manifest.fingerprint,
        database_version=database.version,
    )


def variants(config: PretrainConfig, shape: ModelShape) -> Iterator[tuple[str, ModelShape]]:
    """Names and shapes of what is trained; baselines first, so that Retro is compared with finished ones."""
    if not shape.model.retrieval:
        yield "gpt", shape
        return
    if "gpt" in config.baselines:
        yield "gpt", plain_gpt(shape)
    if "gpt_equal" in config.baselines:
        yield "gpt_equal", equal_gpt(shape)
    yield "retro", shape


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The open artifacts that training reads."""

    corpus: Corpus
    database: ChunkDatabase
    neighbors: Neighbors | None


def _reader(data: _Data, shape: ModelShape, split: int) -> SequenceReader:
    return SequenceReader(
        data.corpus,
        data.database,
        data.neighbors if shape.model.retrieval else None,
        split=split,
        sequence_length=shape.model.sequence_length,
        neighbors_read=shape.model.neighbors,
    )


def _train_variant(
    out: Path,
    variant: str,
    shape: ModelShape,
    config: PretrainConfig,
    training: TrainConfig,
    layout: ParallelConfig,
    data: _Data,
) -> Result:
    settings = {"shape": config_json(shape), "train": config_json(training)}
    require_same_run(out, settings, training, "train")
    finished = finished_result(out, training.steps)
    if finished is not None:
        log.info("%s: already trained", out)
        return finished
    samples = training.steps * training.global_batch
    source = TrainingSource(
        _reader(data, shape, TRAIN), data.corpus, samples, training.seed, hidden=training.hidden_neighbors
    )
    held_out = EvaluationSource(_reader(data, shape, VALID))
    result = train(
        out=out,
        shape=shape,
        config=training,
        layout=layout,
        source=source,
        validation=Validation(source=held_out, samples=held_out.samples) if held_out.samples else None,
        start_from=config.start_from,
        what=f"{STAGE} {variant}",
        tokenizer=data.corpus.directory / "tokenizer",
        begin=lambda: record_run(out, settings, out.parent / MANIFEST),
    )
    if parallel.is_main():
        write_result(out, asdict(result))
    return result
