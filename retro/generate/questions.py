"""Which questions are asked: before any model is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import ConfigError, DataError
from retro.generate.config import GenerateConfig
from retro.qa.layouts import read_task_questions
from retro.qa.question import Question
from retro.qa.question_files import find_question_file
from retro.qa.task import Task, load_task
from retro.sft.sets import existing


def load_questions(config: GenerateConfig, corpus_dir: Path | None) -> list[Question]:
    """All questions that the config asks, before slicing: of several files one after another, ids getting the file's
    name before them; of these the first `limit`.

    Raises:
        ConfigError: No file is named, and there is no corpus.
        DataError: A file is missing or broken.
    """
    task = load_task(config.task)
    if config.questions:
        paths: Sequence[Path] = config.questions
    elif config.data is not None:
        paths = [find_question_file(config.data, task.name, config.split)]
    elif corpus_dir is not None:
        part = "valid" if config.split == "dev" else config.split
        paths = [existing(corpus_dir / "qa" / f"{part}.json")]
    else:
        raise ConfigError("generate.questions", [], "needs a question file, or a run directory with a corpus")
    return _of_files(paths, task)[: config.limit]


def _of_files(paths: Sequence[Path], task: Task) -> list[Question]:
    if len(paths) == 1:
        return read_task_questions(paths[0], task)
    named = [(path.stem, question) for path in paths for question in read_task_questions(path, task)]
    questions = [_renamed(question, f"{stem}/{question.id}") for stem, question in named]
    if len({question.id for question in questions}) < len(questions):
        raise DataError(paths[-1], "has the name of another question file", "Give the files distinct names")
    return questions


def _renamed(question: Question, name: str) -> Question:
    return Question(**(vars(question) | {"id": name}))


def slice_bounds(config: GenerateConfig, total: int) -> tuple[int, int]:
    """First question and number of questions of the slice that the config asks for.

    Raises:
        ConfigError: It starts behind the last question.
    """
    if config.start >= total:
        raise ConfigError("generate.start", config.start, f"needs less than {total}, the number of questions")
    left = total - config.start
    return config.start, left if config.count is None else min(config.count, left)
