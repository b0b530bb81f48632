"""The tuning stage: a pretrained model learns to answer, its encoder reading retrieved passages.

6_sft/<name>/config.json, log.jsonl, checkpoints/, result.json     <name> is the name the original gives
6_sft/manifest.json                                                names the one that was tuned last
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retro.common.artifacts import (
    MANIFEST,
    REPORT,
    Manifest,
    is_complete,
    read_manifest,
    require_parent,
    require_same_config,
    write_manifest,
)
from retro.common.config import config_json
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json, write_json
from retro.common.precision import PrecisionChoice
from retro.corpus.reader import Corpus
from retro.db.versions import version_identity
from retro.index.config import SearchConfig
from retro.index.retriever import BY_VECTORS, open_retriever, search_identity
from retro.mcore import parallel
from retro.model.convert.source import AddedTokens
from retro.model.positions import positions_named
from retro.qa.passages import Retrieve
from retro.qa.prompt_texts import load_prompts
from retro.sft.blend import mixture_table
from retro.sft.config import SftConfig
from retro.sft.prepare import Prepared, Shape, prepare
from retro.tokenizers.added_tokens import add_tokens
from retro.tokenizers.tokenizer import conventions_of, load_tokenizer
from retro.training import checkpoint
from retro.training.checkpoint import TOKENIZER
from retro.training.config import ParallelConfig, result_settings
from retro.training.loop import RATES, Result, finished_result, train
from retro.training.model_tokenizer import model_tokenizer
from retro.training.precision import choose_for_training
from retro.training.result import of_stage, write_result
from retro.training.resume_rules import CONFIG, has_steps_left, record_run, require_same_run, with_recorded_warmup
from retro.training.validation import Validation

log = logging.getLogger(__name__)

STAGE = "sft"


def run(
    config: SftConfig,
    layout: ParallelConfig,
    start_from: Path,
    corpus_dir: Path,
    db_dir: Path,
    index_dir: Path,
    out: Path,
    search: SearchConfig = BY_VECTORS,
) -> Manifest:
    """Tune the checkpoint, or continue where a stopped run left off.

    Args:
        config: Questions, steps, optimizer.
        layout: Processes.
        start_from: A checkpoint, or a directory whose newest one is taken.
        corpus_dir: The corpus, for its tokenizer and its own questions.
        db_dir: The chunk database; opened when passages come from the retriever.
        index_dir: The index; likewise.
        out: The stage's directory.
        search: By what the database is searched.

    Raises:
        DataError: A question file is missing or broken.
        TrainingError: The checkpoint has another size or tokenizer, or the loss is not finite.
        ArtifactError: An artifact is missing or damaged, or `out` was tuned under other settings.
    """
    corpus = Corpus.open(corpus_dir)
    parent = _shortened(checkpoint.read_info(checkpoint.find(of_stage(start_from))), config.sequence_length)
    checkpoint.require_size(parent.path, config.size)
    tokenizer, tokenizer_dir = model_tokenizer(parent, corpus)
    model = parent.shape.model
    name = tuned_name(config, model.size)
    shape, added = parent.shape, None
    if config.special_tokens:
        known = tokenizer
        tokenizer_dir = _with_special_tokens(config, tokenizer_dir, out / name / TOKENIZER)
        tokenizer = load_tokenizer(tokenizer_dir)
        added = AddedTokens(shape=shape, known=known.vocab_size)
        tokens = max(shape.vocabulary, tokenizer.vocab_size)
        shape = shape.model_copy(update={"vocabulary": tokens, "tokenizer": tokenizer.fingerprint})
    training_config = with_recorded_warmup(config.train, [out / name], "sft", "train")
    config = config.model_copy(update={"train": training_config})
    # The expected size is a check; it must not make two runs of one.
    shaped_by = config_json(config.model_copy(update={"size": None}))
    settings: dict[str, Any] = {
        "sft": shaped_by,
        "blend": config_json(config.data.resolved_blend()),
        "prompts": load_prompts(config.data.prompts).identity,
        "checkpoint": [checkpoint.identity(parent.path), config_json(parent.shape)],
    }
    conventions = conventions_of(tokenizer)
    if config.data.style == "chat" or (conventions.prefix and config.data.add_special_tokens):
        settings["conventions"] = conventions.identity
    retrieves = config.data.passages_from != "contexts" and (config.data.encoder or config.data.contexts_in_prompt)
    if retrieves:
        settings |= {"database": version_identity(db_dir), **search_identity(search, index_dir)}
    made = read_manifest(out, STAGE) if is_complete(out) else None
    run_dir = out / name
    again = made is not None and made.counts.get("name") == name
    if made is not None and again:
        _require_same_weights(out / MANIFEST, made.config, settings)
        require_same_config(out, made, settings, compared=result_settings)
        require_parent(out, made, "corpus", corpus.manifest)
        if not has_steps_left(out, made.config["sft"]["train"], config.train, "sft.train"):
            log.info("%s: already complete", out)
            return made
    elif made is not None:
        log.info("%s: %s is complete; %s comes beside it", out, made.counts.get("name"), name)
    choice = choose_for_training(config.train.precision, [run_dir], "sft.train.precision")
    train_config = config.train.model_copy(update={"precision": choice.precision})
    config = config.model_copy(update={"train": train_config})
    settings["sft"] = shaped_by | {"train": config_json(train_config)}
    if (run_dir / CONFIG).exists() and checkpoint.complete(run_dir / "checkpoints"):
        _require_same_weights(run_dir / CONFIG, read_json(run_dir / CONFIG, f"Delete {run_dir}"), settings)
    require_same_run(run_dir, settings, config.train, "sft.train")
    retrieve = None
    if retrieves:
        most = max(model.neighbors, config.data.contexts_in_prompt)
        retrieve = open_retriever(corpus, db_dir, index_dir, most, search)
    training, validation = _prepare(config, corpus, parent, tokenizer, retrieve)
    result = finished_result(run_dir, config.train.steps)
    if result is None:
        _log_mixture(config, training)
        held_out = None
        if validation is not None:
            samples = sum(report.samples for report in validation.reports)
            held_out = Validation(source=validation.source, samples=samples)
        result = train(
            out=run_dir,
            shape=shape,
            config=config.train,
            layout=layout,
            source=training.source,
            validation=held_out,
            start_from=parent.path,
            added=added,
            what=STAGE,
            tokenizer=tokenizer_dir,
            begin=lambda: record_run(run_dir, settings, *([out / MANIFEST] if again else [])),
        )
        if parallel.is_main():
            write_result(run_dir, asdict(result))
    return _finish(config, settings, corpus, name, result, training, choice, out)


def _shortened(parent: checkpoint.CheckpointInfo, length: int | None) -> checkpoint.CheckpointInfo:
    """The checkpoint as one of a model of shorter sequences.

    Raises:
        ConfigError: It has shorter ones already, or its positions are rows of a table.
    """
    model = parent.shape.model
    if length is None or length == model.sequence_length:
        return parent
    setting = "sft.sequence_length"
    if length > model.sequence_length:
        raise ConfigError(setting, length, f"needs at most {model.sequence_length}, as {parent.path} was trained")
    if not positions_named(model.positions).rotary:
        raise ConfigError(setting, length, f"needs a model with rotary positions; {parent.path} has {model.positions}")
    if length % parent.shape.chunk_length and model.retrieval:
        raise ConfigError(setting, length, f"needs a multiple of the chunk length, {parent.shape.chunk_length}")
    shape = parent.shape.model_copy(update={"model": model.model_copy(update={"sequence_length": length})})
    return replace(parent, shape=shape)


def _with_special_tokens(config: SftConfig, directory: Path, out: Path) -> Path:
    """The tokenizer in `directory` with the special tokens that are asked for, written by the first process."""
    if parallel.is_main():
        add_tokens(directory, config.special_tokens, out, "sft.special_tokens")
    parallel.barrier()
    return out


def _require_same_weights(path: Path, made: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that what `path` records was tuned from the weights that are to be tuned now.

    Raises:
        ArtifactError: It was tuned from others.
    """
    before, now = made["checkpoint"][0], settings["checkpoint"][0]
    if before != now:
        problem = (
            f"was tuned from other weights ({before}; those here are {now}): these were trained on, or again, since"
        )
        raise ArtifactError(path, problem, f"Run `retro {STAGE}` with --redo to tune the weights that are here now")


def tuned_name(config: SftConfig, size: str) -> str:
    """The directory name that users of the original know: blend, size, global batch and learning rate.

    A size that is a HuggingFace folder is given by the folder's name; adapters add their rank.
    """
    blend = config.data.resolved_blend().name
    # 5e-6, as people type it; Python writes 5e-06.
    lr = f"{config.train.lr:g}".replace("e-0", "e-")
    adapters = "" if config.train.lora is None else f"_lora{config.train.lora.rank}"
    return f"retro-{blend}_pp1_same_format_ctx1_{Path(size).name}_{config.train.global_batch}_{lr}{adapters}"


def _prepare(
    config: SftConfig,
    corpus: Corpus,
    parent: checkpoint.CheckpointInfo,
    tokenizer: Any,
    retrieve: Retrieve | None,
) -> tuple[Prepared, Prepared | None]:
    model = parent.shape.model
    shape = Shape(
        sequence_length=model.sequence_length,
        chunk_length=parent.shape.chunk_length,
        passages=model.neighbors,
        retrieved_length=parent.shape.retrieved_length,
    )
    data = config.data
    if not model.retrieval:
        data = data.model_copy(update={"encoder": False})
    arguments: dict[str, Any] = {"corpus_dir": corpus.directory, "retrieve": retrieve}
    training = prepare(data, "train", tokenizer, shape, **arguments)
    if training is None:
        raise ValueError("a blend without training files passed its own checks")
    return training, prepare(data, "dev", tokenizer, shape, **arguments)


def _log_mixture(config: SftConfig, training: Prepared) -> None:
    names = [one.name for one in training.reports]
    for line in mixture_table(names, training.shares(config.train.steps * config.train.global_batch)):
        log.info("%s", line)


def _finish(
    config: SftConfig,
    settings: dict[str, Any],
    corpus: Corpus,
    name: str,
    result: Result,
    training: Prepared,
    choice: PrecisionChoice,
    out: Path,
) -> Manifest:
    values = asdict(result)
    rates = {rate: values.pop(rate) for rate in RATES}
    manifest = Manifest(
        stage=STAGE,
        config=settings,
        parents={"corpus": corpus.manifest.fingerprint},
        counts={"name": name, "result": values},
    )
    if parallel.is_main():
        sequences = config.train.steps * config.train.global_batch
        write_json(out / REPORT, rates | training.report(sequences) | choice.report)
        write_manifest(out, manifest)
    parallel.barrier()
    return manifest
