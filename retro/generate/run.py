"""The generation stage: a checkpoint answers questions with passages, without, and with another question's."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint, write_manifest
from retro.common.config import config_json
from retro.common.files import write_json
from retro.common.leases import run_lock
from retro.common.resume import completed, fingerprints
from retro.db.versions import version_identity
from retro.generate.answer_writer import begun_precision, covered, header_path, join_slices, plain_name, write_plain
from retro.generate.config import GenerateConfig, with_precision
from retro.generate.loading import (
    conventions_identity,
    find_checkpoint,
    for_model,
    open_engine,
    prompt_texts,
    with_choice,
)
from retro.generate.passages import find_passages
from retro.generate.questions import load_questions, slice_bounds
from retro.generate.ranks import on_first_rank
from retro.generate.runner import QuestionRunner, answer_all
from retro.generate.task_prompt import task_identity, warn_of_other_prompts
from retro.index.config import SearchConfig
from retro.index.retriever import BY_VECTORS, search_identity
from retro.qa.answer_files import QUESTIONS
from retro.qa.task import load_task
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.model_tokenizer import model_tokenizer, open_corpus

log = logging.getLogger(__name__)

STAGE = "generate"


def run(
    config: GenerateConfig,
    layout: ParallelConfig,
    checkpoint_dir: Path,
    corpus_dir: Path,
    db_dir: Path,
    index_dir: Path,
    out: Path,
    search: SearchConfig = BY_VECTORS,
) -> Manifest:
    """Answer the questions, or those still missing after a stop.

    A slice (`start`, `count`) leaves its own files; the last slice to finish joins them, and only then is the stage
    complete. Under a launcher the processes share the model, and the first one searches and writes.

    Args:
        config: Questions, settings, sampling.
        layout: Processes. Without a launcher one process holds the whole model, whatever this says.
        checkpoint_dir: A checkpoint, a directory of them, or a finished tuning stage.
        corpus_dir: The corpus, for its tokenizer and its own questions; none is needed where questions are in a file,
            nothing is searched and the checkpoint has a tokenizer.
        db_dir: The chunk database; opened when passages come from the retriever.
        index_dir: The index; likewise.
        out: The stage's directory.
        search: By what the database is searched.

    Raises:
        ConfigError: A setting does not fit the model, the questions or the processes.
        DataError: A question file is missing or broken.
        TrainingError: The checkpoint has another size, or was trained with another tokenizer.
        ArtifactError: An artifact is missing or damaged, or `out` holds answers of other settings.
    """
    task = load_task(config.task)
    texts = prompt_texts(config, task)
    info = find_checkpoint(config, checkpoint_dir)
    corpus = open_corpus(corpus_dir, info, searches=config.searches)
    parents = {} if corpus is None else {"corpus": corpus.manifest}
    questions = load_questions(config, None if corpus is None else corpus_dir)
    config = _whole_is_no_slice(config, len(questions))
    # Neither the slice nor the expected size shapes an answer.
    shaping = config.model_copy(update={"start": 0, "count": None, "size": None})
    settings = {"generate": config_json(shaping)}
    identity: dict[str, Any] = {
        "checkpoint": checkpoint.identity(info.path),
        "questions": fingerprint([[one.id, one.question, list(one.answers)] for one in questions]),
        **fingerprints(parents),
        "prompts": texts.identity,
        "task": task_identity(task),
    }
    identity |= conventions_identity(model_tokenizer(info, corpus)[0], config)
    if config.searches:
        identity |= {"database": version_identity(db_dir), **search_identity(search, index_dir)}
    made = completed(out, STAGE, settings | {"identity": identity}, parents, compared=_renamed)
    if made is not None:
        return made
    config, choice = with_choice(config, begun_precision(out))
    settings["generate"]["precision"] = choice.precision
    started = time.monotonic()
    config = for_model(config, info)
    warn_of_other_prompts(config, info.path, texts)
    engine, retrieve = open_engine(config, layout, info, corpus, db_dir, index_dir, search)
    asker = QuestionRunner(
        engine=engine,
        config=config,
        task=task,
        questions=questions,
        identity=identity,
        texts=texts,
        model=f"{Path(info.shape.model.size).name} {info.step}",
    )
    passages = find_passages(config, questions, retrieve)
    with run_lock(out, name=f".lock_{config.start}") if config.is_slice else nullcontext():
        report = answer_all(asker, passages, out) | choice.report
    manifest = Manifest(
        stage=STAGE,
        config=settings | {"identity": identity},
        parents=fingerprints(parents),
        counts={"questions": len(questions), "settings": list(config.settings)},
    )
    return on_first_rank(lambda: _finish(asker, manifest, report, started, out))


def _finish(asker: QuestionRunner, manifest: Manifest, report: dict[str, Any], started: float, out: Path) -> Manifest:
    """Write report and manifest, once all questions have their answers."""
    files = report.pop("files")
    if asker.config.is_slice:
        files = _join(asker, out)
        if not files:
            log.info("%s: this slice is complete, others are not yet", out)
            return manifest
    manifest = Manifest(**(asdict(manifest) | {"files": describe_files(out, files)}))
    write_json(out / REPORT, report | {"seconds": time.monotonic() - started})
    return write_manifest(out, manifest)


def _join(asker: QuestionRunner, out: Path) -> list[str]:
    """Join the slices of every setting if they cover all questions; the files of the stage, or none yet."""
    ids = [question.id for question in asker.questions]
    files = [QUESTIONS]
    for setting in asker.config.settings:
        if covered(out, setting) < len(ids):
            return []
        path = join_slices(out, setting, ids)
        files += [path.name, header_path(path).name]
        if asker.config.plain_output:
            name = plain_name(asker.config, asker.task.name, asker.model, setting, (0, len(ids)))
            files.append(write_plain(path, out / name).name)
    return files


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "generate": with_precision(settings["generate"])}


def _whole_is_no_slice(config: GenerateConfig, questions: int) -> GenerateConfig:
    """A count that reaches past the last question asks for all of them: 0 and 20000 of 3610 questions is no slice."""
    return config.model_copy(update={"count": None}) if slice_bounds(config, questions) == (0, questions) else config
