"""The step `joint`: retriever and reader are trained together, by the likelihood of answers over the documents found.

prefix/checkpoints/, log.jsonl    as the step `train` has them, with the retriever's weights beside the reader's
prefix/snapshots/                 the retriever's weights that indexes were built from, the latest of them
prefix/result.json
encoder/                          as of the step `train`: `load_prefix_model` opens this step's folder as it does that
retriever/                        the trained retriever: folders that an embedder reads, `embedder.json`, its settings
indexes.json                      which steps searched in the index of which snapshot, and how far behind that was
valid.jsonl, test.jsonl           the held-out and the test questions with the documents that it finds
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from retro.common.config import config_json
from retro.common.files import discard, write_json
from retro.mcore import parallel
from retro.qa.metrics.words import substring_match
from retro.qa.question import Question
from retro.qa.question_files import read_questions
from retro.recipes.base import Made, StepRun
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.joint.config import JointConfig
from retro.recipes.dynamic_prefix.joint.documents import Documents, open_documents
from retro.recipes.dynamic_prefix.joint.refresh import Searcher
from retro.recipes.dynamic_prefix.joint.retriever import JointRetriever, trained_embedder
from retro.recipes.dynamic_prefix.joint.step import joint_settings
from retro.recipes.dynamic_prefix.joint.training import (
    JointParts,
    Part,
    build_index,
    filled_modules,
    schedule_of,
    train_joint,
)
from retro.recipes.dynamic_prefix.training.base_model import open_base, tokenizer_of
from retro.recipes.dynamic_prefix.training.encoder_files import INITIAL, open_tokenizer
from retro.recipes.dynamic_prefix.training.loading import prefix_checkpoint
from retro.recipes.dynamic_prefix.training.parts import modules_of, require_layers, require_layout
from retro.recipes.dynamic_prefix.training.questions import RETRIEVE, TEST, TRAIN, VALID, records
from retro.recipes.dynamic_prefix.training.samples import PrefixSource, encode_samples
from retro.recipes.dynamic_prefix.training.train import ENCODER, PREFIX_RUN, sequence_length
from retro.recipes.item_files import write_items
from retro.tokenizers.tokenizer import Tokenizer
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo
from retro.training.loop import RATES, Result, finished_result
from retro.training.precision import choose_for_training
from retro.training.result import write_result
from retro.training.resume_rules import record_run, require_same_run

log = logging.getLogger(__name__)

RETRIEVER_FOLDER, INDEXES, PASSAGES = "retriever", "indexes.json", "passages"
_SETTING = "recipe.dynamic_prefix.joint.train"
_DEPTHS = (1, 5, 20, 100)
_QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions of the step."""

    train: list[Question]
    valid: list[Question]
    test: list[Question]

    @property
    def all(self) -> list[Question]:
        """Of all files."""
        return [*self.train, *self.valid, *self.test]


def run(work: StepRun) -> Made:
    """Train, or go on where a stopped run left off; then write the retriever, and what it finds.

    Raises:
        ConfigError: A setting cannot work with the model, the documents or the processes.
        DataError, DependencyError: Questions, documents or the retriever cannot be used.
        ArtifactError: What the step `train` left is damaged, or a snapshot is.
        TrainingError: The loss is not finite.
    """
    config = joint_settings(work.settings)
    require_layout(work.config.parallel)
    base = open_base(work)
    require_layers(work.settings.prefix, base.shape)
    asked = read_asked(work)
    documents = open_documents(work.settings.data, work.directory / PASSAGES, asked.all, config.documents)
    out = work.directory / PREFIX_RUN
    precision = choose_for_training(config.train.precision, [out], f"{_SETTING}.precision").precision
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    parts = _parts(work, config, base, asked, documents)
    result, waited_s = _trained(work, config, parts, base, out)
    if parallel.rank():
        return Made()
    return _made(work, config, parts, asked, result, waited_s)


def read_asked(work: StepRun) -> Asked:
    """The questions of the step `retrieve`."""
    folder = work.made_by(RETRIEVE)

    def read(name: str) -> list[Question]:
        path = folder / name
        return read_questions(path) if path.exists() and path.stat().st_size else []

    return Asked(train=read(TRAIN), valid=read(VALID), test=read(TEST))


def _parts(work: StepRun, config: JointConfig, base: CheckpointInfo, asked: Asked, documents: Documents) -> JointParts:
    settings: DynamicPrefixConfig = work.settings
    tokenizer, directory = tokenizer_of(work, base)
    made = work.made_by("train")
    knowledge = open_tokenizer(made / ENCODER, settings.prefix)

    def part(questions: Sequence[Question]) -> Part:
        return Part(questions=questions, source=_source(work, config, base, tokenizer, questions))

    return JointParts(
        shape=base.shape,
        base=base.path,
        tokenizer=directory,
        reader=filled_modules(modules_of(made / ENCODER, settings.prefix, initial=False), prefix_checkpoint(made)),
        knowledge=knowledge,
        retriever=JointRetriever(config.retriever, separate=config.towers == "separate"),
        documents=documents,
        train=part(asked.train),
        valid=part(asked.valid) if asked.valid else None,
    )


def _source(
    work: StepRun, config: JointConfig, base: CheckpointInfo, tokenizer: Tokenizer, questions: Sequence[Question]
) -> PrefixSource:
    """Prompts and answers; documents are found later."""
    settings: DynamicPrefixConfig = work.settings
    samples, counts = encode_samples(
        [replace(one, contexts=()) for one in questions],
        tokenizer,
        open_tokenizer(work.made_by("train") / ENCODER, settings.prefix),
        settings.train,
        most_documents=1,
        length=sequence_length(settings, base),
    )
    log.info("%d questions, %d prompts and %d answers cut", len(samples), counts["prompts_cut"], counts["answers_cut"])
    layout = work.config.parallel
    multiple = layout.tensor if layout.sequence else 1
    return PrefixSource(samples, end=tokenizer.eod, documents=1, multiple=multiple, seed=config.train.seed)


def _trained(
    work: StepRun, config: JointConfig, parts: JointParts, base: CheckpointInfo, out: Path
) -> tuple[Result, float]:
    """Training, and the retriever written after it; what has finished is not done again."""
    settings = {
        "train": config_json(config.train),
        "joint": {name: value for name, value in config_json(config).items() if name != "train"},
        "prefix": config_json(work.settings.prefix),
        "base": checkpoint.identity(base.path),
        "reader": checkpoint.identity(prefix_checkpoint(work.made_by("train"))),
    }
    require_same_run(out, settings, config.train, _SETTING)
    result = finished_result(out, config.train.steps)
    if result is not None:
        return result, 0.0
    result, waited_s = train_joint(config, parts, work.config.parallel, out, begin=lambda: record_run(out, settings))
    if parallel.is_main():
        parts.retriever.save(work.directory / RETRIEVER_FOLDER)
        write_result(out, asdict(result))
    return result, waited_s


def _made(work: StepRun, config: JointConfig, parts: JointParts, asked: Asked, result: Result, waited_s: float) -> Made:
    home = work.directory
    _copy_encoder(work.made_by("train") / ENCODER, home / ENCODER)
    write_json(home / INDEXES, {"indexes": schedule_of(config).uses(config.train.steps)})
    found, recalls = _found(work, config, parts.documents, asked)
    kept = {name: value for name, value in asdict(result).items() if name not in RATES and name != "probes"}
    folders = [home / ENCODER, home / RETRIEVER_FOLDER]
    # `prefix/result.json` has seconds, which differ between equal runs.
    inside = [str(one.relative_to(home)) for place in folders for one in sorted(place.rglob("*")) if one.is_file()]
    return Made(
        files=[*inside, *found, INDEXES],
        counts={
            "documents": len(parts.documents),
            "blank_documents": parts.documents.blank,
            "result": kept,
            "recall": recalls,
        },
        report={name: getattr(result, name) for name in RATES} | {"index_wait_seconds": waited_s},
    )


def _copy_encoder(source: Path, target: Path) -> None:
    discard(target)
    # What it started from is not what it is now; hidden files are memories of checksums.
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(INITIAL, ".*"))


def _found(
    work: StepRun, config: JointConfig, documents: Documents, asked: Asked
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Write the held-out and test questions with the documents that the trained retriever finds.

    Returns:
        The files, and the recall on held-out questions of the retriever as it was and as it is.
    """
    recalls: dict[str, dict[str, float]] = {}
    separate = config.towers == "separate"
    most = min(max(_DEPTHS), len(documents))
    if asked.valid:
        index = build_index(documents, JointRetriever(config.retriever, separate=separate).eval())
        recalls["untrained"] = answer_recall(searched(index, asked.valid, documents, most))
    trained = trained_embedder(work.directory / RETRIEVER_FOLDER)
    index = build_index(documents, JointRetriever(trained, separate=separate).eval())
    files = []
    for name, questions in ((VALID, asked.valid), (TEST, asked.test)):
        if questions:
            found = searched(index, questions, documents, most)
            if name == VALID:
                recalls["trained"] = answer_recall(found)
            first = [replace(one, contexts=one.contexts[: work.settings.prefix.documents]) for one in found]
            write_items(work.directory / name, records(first))
            files.append(name)
    return files, recalls


def searched(index: Searcher, questions: Sequence[Question], documents: Documents, k: int) -> list[Question]:
    """Questions with the best `k` documents in place of those they had; where those say which document holds the
    answer is kept."""
    found = []
    for first in range(0, len(questions), _QUESTIONS_AT_ONCE):
        block = questions[first : first + _QUESTIONS_AT_ONCE]
        rows_QK = index.search([one.question for one in block], k)
        found += [
            replace(one, contexts=tuple(documents.at(rows.tolist()))) for one, rows in zip(block, rows_QK, strict=True)
        ]
    return found


def answer_recall(questions: Sequence[Question]) -> dict[str, float]:
    """Share of questions with an answer in one of their first k documents, as whole words, for several k.

    Args:
        questions: With their documents, best first, equally many.
    """
    places = []
    for one in questions:
        held = [substring_match(f"{context.title} {context.text}", one.answers) == 1.0 for context in one.contexts]
        places.append(held.index(True) if any(held) else len(held))
    most = len(questions[0].contexts)
    depths = sorted({min(depth, most) for depth in _DEPTHS})
    return {f"top_{depth}": sum(place < depth for place in places) / len(places) for depth in depths}
