"""The step `train`: a knowledge encoder learns, by the loss of answers, to be read by a frozen language model.

encoder/                          what the encoder is, see encoder_files.py
prefix/checkpoints/, log.jsonl    of `training.train`: the encoder's and the prefix's weights alone, and the name of
prefix/result.json                the language model that they were trained on
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError
from retro.mcore import parallel
from retro.qa.question import Question
from retro.qa.question_files import read_questions
from retro.recipes.base import Made, StepRun
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.training.base_model import open_base, tokenizer_of
from retro.recipes.dynamic_prefix.training.encoder_files import EncoderTokenizer, open_tokenizer, prepare_encoder
from retro.recipes.dynamic_prefix.training.knowledge_loss import losses_of
from retro.recipes.dynamic_prefix.training.parts import modules_of, require_layers, require_layout
from retro.recipes.dynamic_prefix.training.questions import RETRIEVE, TRAIN, VALID
from retro.recipes.dynamic_prefix.training.samples import PrefixSource, document_text, encode_samples
from retro.tokenizers.tokenizer import Tokenizer
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo
from retro.training.config import TrainConfig
from retro.training.loop import RATES, Result, finished_result, train
from retro.training.precision import choose_for_training
from retro.training.result import write_result
from retro.training.resume_rules import record_run, require_same_run
from retro.training.validation import Validation

log = logging.getLogger(__name__)

ENCODER, PREFIX_RUN = "encoder", "prefix"
_SETTING = "recipe.dynamic_prefix.train.train"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training takes."""

    source: PrefixSource
    validation: Validation | None
    counts: dict[str, Any]
    tokenizer: Path


def run(work: StepRun) -> Made:
    """Train, or go on where a stopped run left off.

    Raises:
        ConfigError: A setting cannot work with the model or the processes.
        DataError: Questions or the encoder cannot be used.
        TrainingError: The loss is not finite.
    """
    config: DynamicPrefixConfig = work.settings
    layout = work.config.parallel
    require_layout(layout)
    base = open_base(work)
    require_layers(config.prefix, base.shape)
    prepared = prepare(work, base)
    out = work.directory / PREFIX_RUN
    training = _with_epochs(config, len(prepared.source.samples))
    precision = choose_for_training(training.precision, [out], f"{_SETTING}.precision").precision
    training = training.model_copy(update={"precision": precision})
    settings = {
        "train": config_json(training),
        "prefix": config_json(config.prefix),
        "base": checkpoint.identity(base.path),
    }
    if config.train.knowledge is not None:
        settings["knowledge"] = config_json(config.train.knowledge)
    require_same_run(out, settings, training, _SETTING)
    result = finished_result(out, training.steps)
    if result is None:
        result = train(
            out=out,
            shape=base.shape,
            config=training,
            layout=layout,
            source=prepared.source,
            validation=prepared.validation,
            start_from=base.path,
            loss=losses_of(config.train.knowledge, layout),
            modules=modules_of(work.directory / ENCODER, config.prefix, initial=True),
            what="train",
            tokenizer=prepared.tokenizer,
            begin=lambda: record_run(out, settings),
        )
        if parallel.is_main():
            write_result(out, asdict(result))
    return _made(work, result, prepared)


def prepare(work: StepRun, base: CheckpointInfo) -> Prepared:
    """The encoder's files, made by the first process, and the samples of all questions with a document; of all
    questions where the prefix is of none.

    Raises:
        DataError: There is no such question.
    """
    config: DynamicPrefixConfig = work.settings
    tokenizer, directory = tokenizer_of(work, base)
    questions = read_questions(work.made_by(RETRIEVE) / TRAIN)
    known = [one for one in questions if one.contexts or config.prefix.documents == 0]
    if not known:
        raise DataError(work.made_by(RETRIEVE) / TRAIN, "has no question with a document", "Search for more documents")
    place = work.directory / ENCODER
    if parallel.rank() == 0:
        texts = [
            document_text(document) for one in known for document in one.contexts[: max(1, config.prefix.documents)]
        ]
        # An encoder that reads nothing has a vocabulary all the same.
        prepare_encoder(place, config.prefix, texts or [one.question for one in known], directory)
    parallel.from_first(None)
    documents = open_tokenizer(place, config.prefix)
    source, counts = _source(work, base, known, tokenizer, documents)
    counts["left_out_without_documents"] = len(questions) - len(known)
    validation, of_valid = None, None
    held_out = _held_out(work)
    if held_out:
        valid, of_valid = _source(work, base, held_out, tokenizer, documents)
        validation = Validation(source=valid, samples=len(held_out))
    return Prepared(
        source=source, validation=validation, counts={"train": counts, "valid": of_valid}, tokenizer=directory
    )


def _held_out(work: StepRun) -> list[Question]:
    path = work.made_by(RETRIEVE) / VALID
    return read_questions(path) if path.stat().st_size else []


def _source(
    work: StepRun,
    base: CheckpointInfo,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    documents: EncoderTokenizer,
) -> tuple[PrefixSource, dict[str, int]]:
    config: DynamicPrefixConfig = work.settings
    samples, counts = encode_samples(
        questions,
        tokenizer,
        documents,
        config.train,
        most_documents=config.prefix.documents,
        length=sequence_length(config, base),
    )
    layout = work.config.parallel
    source = PrefixSource(
        samples,
        end=tokenizer.eod,
        documents=config.prefix.documents,
        multiple=layout.tensor if layout.sequence else 1,
        seed=config.train.train.seed,
    )
    return source, counts


def sequence_length(config: DynamicPrefixConfig, base: CheckpointInfo) -> int:
    """Most tokens of prompt and answer.

    Raises:
        ConfigError: The model reads fewer than are asked for.
    """
    most, asked = base.shape.model.sequence_length, config.train.sequence_length
    if asked is not None and asked > most:
        raise ConfigError("recipe.dynamic_prefix.train.sequence_length", asked, f"needs at most {most}, as the model")
    return asked or most


def _with_epochs(config: DynamicPrefixConfig, samples: int) -> TrainConfig:
    """The settings of training, with steps for so many times through the samples where epochs are asked for."""
    training = config.train.train
    if config.train.epochs is None:
        return training
    steps = max(1, math.ceil(config.train.epochs * samples / training.global_batch))
    warmup = min(training.warmup_steps, steps // 10)
    log.info("%g times through %d questions: %d steps", config.train.epochs, samples, steps)
    return training.model_copy(update={"steps": steps, "warmup_steps": warmup})


def _made(work: StepRun, result: Result, prepared: Prepared) -> Made:
    kept = {name: value for name, value in asdict(result).items() if name not in RATES}
    kept.pop("probes")
    place = work.directory / ENCODER
    files = [path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file()]
    # Not the training's own `result.json`, which has rates: two runs of the same settings are equal.
    return Made(
        files=[f"{ENCODER}/{name}" for name in files if not name.name.startswith(".")],
        counts={**prepared.counts, "result": kept},
        report={name: getattr(result, name) for name in RATES},
    )
