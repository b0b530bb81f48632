"""The generation stage: a checkpoint answers questions with passages, without, and with another question's."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint, write_manifest
from retro.common.block_stage import completed, fingerprints
from retro.common.config import config_json
from retro.common.files import write_json
from retro.common.leases import run_lock
from retro.db.versions import version_identity
from retro.generate.answer_writer import begun_precision, covered, header_path, join_slices, plain_name, write_plain
from retro.generate.config import GenerateConfig, ModelPaths, current_names
from retro.generate.loading import conventions_identity, find_checkpoint, prompt_texts
from retro.generate.open_model import OpenModel
from retro.generate.questions import find_passages, load_questions, slice_bounds
from retro.generate.ranks import on_first_rank
from retro.generate.runner import Policy, QuestionRunner, answer_all
from retro.generate.task_prompt import task_identity, warn_of_other_prompts
from retro.index.retriever import search_identity
from retro.qa.answer_files import QUESTIONS
from retro.qa.prompt_texts import PromptTexts
from retro.qa.question import Question
from retro.qa.task import Task, load_task
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules

log = logging.getLogger(__name__)

STAGE = "generate"


def run(
    config: GenerateConfig,
    layout: ParallelConfig,
    paths: ModelPaths,
    out: Path,
    policy: Policy | None = None,
    modules: AddModules | None = None,
) -> Manifest:
    """Answer the questions, or those still missing after a stop.

    A slice (`start`, `count`) leaves its own files; the last slice to finish joins them, and only then is the stage
    complete. Under a launcher the processes share the model, and the first one searches and writes.

    Args:
        config: Questions, settings, sampling.
        layout: Processes. Without a launcher one process holds the whole model, whatever this says.
        paths: Checkpoint, corpus (for its own questions too), database and index.
        out: The stage's directory.
        policy: A way of decoding in place of the plain one.
        modules: Gives the further modules that the checkpoint was trained with, for a policy that uses them.

    Raises:
        ConfigError: A setting does not fit the model, the questions or the processes.
        DataError: A question file is missing or broken.
        TrainingError: The checkpoint has another size, or was trained with another tokenizer.
        ArtifactError: An artifact is missing or damaged, or `out` holds answers of other settings.
    """
    task = load_task(config.task)
    texts = prompt_texts(config, task)
    model = OpenModel(config, find_checkpoint(config, paths.checkpoint), paths, layout, modules=modules)
    parents = {} if model.corpus is None else {"corpus": model.corpus.manifest}
    questions = load_questions(config, None if model.corpus is None else paths.corpus)
    model.config = _whole_is_no_slice(config, len(questions))
    # Neither the slice nor the expected size shapes an answer.
    shaping = model.config.model_copy(update={"start": 0, "count": None, "size": None})
    settings = {"generate": config_json(shaping)}
    identity = _identity(model, questions, texts, task) | fingerprints(parents)
    if policy is not None:
        identity |= {"policy": dict(policy.identity)}
    made = completed(out, STAGE, settings | {"identity": identity}, parents, compared=_renamed)
    if made is not None:
        return made
    choice = model.prepare(begun_precision(out))
    settings["generate"]["precision"] = choice.precision
    started = time.monotonic()
    config, info = model.config, model.info
    if policy is None:
        warn_of_other_prompts(config, info.path, texts)
    runner = QuestionRunner(
        engine=model.engine,
        config=config,
        task=task,
        questions=questions,
        identity=identity,
        texts=texts,
        policy=policy,
        model=f"{Path(info.shape.model.size).name} {info.step}",
    )
    passages = find_passages(config, questions, model.retrieve)
    with run_lock(out, name=f".lock_{config.start}") if config.is_slice else nullcontext():
        report = answer_all(runner, passages, out) | choice.report
    manifest = Manifest(
        stage=STAGE,
        config=settings | {"identity": identity},
        parents=fingerprints(parents),
        counts={"questions": len(questions), "settings": list(config.settings)},
    )
    return on_first_rank(lambda: _finish(runner, manifest, report, started, out))


def _identity(model: OpenModel, questions: Sequence[Question], texts: PromptTexts, task: Task) -> dict[str, Any]:
    """What shapes the answers beside the settings."""
    paths = model.paths
    identity: dict[str, Any] = {
        "checkpoint": checkpoint.identity(model.info.path),
        "questions": fingerprint([[one.id, one.question, list(one.answers)] for one in questions]),
        "prompts": texts.identity,
        "task": task_identity(task),
        **conventions_identity(model.tokenizer, model.config),
    }
    if model.config.searches:
        identity |= {"database": version_identity(paths.db), **search_identity(paths.search, paths.index)}
    return identity


def _finish(runner: QuestionRunner, manifest: Manifest, report: dict[str, Any], started: float, out: Path) -> Manifest:
    """Write report and manifest, once all questions have their answers."""
    files = report.pop("files")
    if runner.config.is_slice:
        files = _join(runner, out)
        if not files:
            log.info("%s: this slice is complete, others are not yet", out)
            return manifest
    manifest = Manifest(**(asdict(manifest) | {"files": describe_files(out, files)}))
    write_json(out / REPORT, report | {"seconds": time.monotonic() - started})
    return write_manifest(out, manifest)


def _join(runner: QuestionRunner, out: Path) -> list[str]:
    """Join the slices of every setting if they cover all questions; the files of the stage, or none yet."""
    ids = [question.id for question in runner.questions]
    files = [QUESTIONS]
    for setting in runner.config.settings:
        if covered(out, setting) < len(ids):
            return []
        path = join_slices(out, setting, ids)
        files += [path.name, header_path(path).name]
        if runner.config.plain_output:
            name = plain_name(runner.config, runner.task.name, runner.model, setting, (0, len(ids)))
            files.append(write_plain(path, out / name).name)
    return files


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "generate": current_names(settings["generate"])}


def _whole_is_no_slice(config: GenerateConfig, questions: int) -> GenerateConfig:
    """A count that reaches past the last question means all of them: 0 and 20000 of 3610 questions are not a slice."""
    return config.model_copy(update={"count": None}) if slice_bounds(config, questions) == (0, questions) else config
