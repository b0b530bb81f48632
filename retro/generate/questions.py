"""Which questions are asked, and which passages each is given in each setting, before any model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from retro.common.errors import ConfigError, DataError
from retro.generate.config import GenerateConfig, Setting
from retro.qa.layouts import read_task_questions
from retro.qa.passages import Retrieve, passages_of
from retro.qa.question import PassageLike, Question
from retro.qa.question_files import existing_file, find_question_file
from retro.qa.task import Task, load_task


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
        paths = [existing_file(corpus_dir / "qa" / f"{part}.json")]
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


Passages = Sequence[PassageLike]


def find_passages(
    config: GenerateConfig, questions: Sequence[Question], retrieve: Retrieve | None, *, needed: bool = True
) -> dict[Setting, list[Passages]]:
    """The passages of all questions in each setting, best first, at most as many as are used.

    Args:
        config: Settings, and where passages come from.
        questions: All of them.
        retrieve: Searches the database; needed where `config.searches`.
        needed: Refuse a setting with passages in which no question has one: it would be `closed_book` under another
            name. A single question is not a comparison, and is answered without.

    Raises:
        ConfigError: Passages are wanted, and no question has one; or the retriever is, and there is none.
    """
    searched: Sequence[Passages] = []
    if config.searches:
        searched = passages_of(questions, "retriever", retrieve, what="generate")
    own = searched if config.passages_from == "retriever" else [question.contexts for question in questions]
    return {
        setting: _in_setting(config, setting, questions, own, searched, needed=needed) for setting in config.settings
    }


def _in_setting(
    config: GenerateConfig,
    setting: Setting,
    questions: Sequence[Question],
    own: Sequence[Passages],
    searched: Sequence[Passages],
    *,
    needed: bool,
) -> list[Passages]:
    if setting == "closed_book":
        return [() for _ in questions]
    sources: Mapping[str, Sequence[Passages]] = {
        "retrieved_passages": searched,
        "live_retrieval": searched,
        "gold_passages": [gold_contexts(question) for question in questions] if setting == "gold_passages" else [],
    }
    found = sources.get(setting, own)
    if not any(found) and needed:
        # A setting with passages and one without would be the same run under two names.
        raise ConfigError("generate.settings", setting, _lacking(config, setting, len(questions)))
    used = max(config.passages if config.encoder else 0, config.contexts_in_prompt)
    kept = [passages[:used] for passages in found]
    return shuffled(kept, config.seed) if setting == "shuffled_passages" else kept


def _lacking(config: GenerateConfig, setting: Setting, questions: int) -> str:
    if setting == "gold_passages":
        what = "contexts of the documents that hold the answer (document_ids or supporting_facts)"
        return f"needs {what}, and none of {questions} questions has one"
    if setting in ("retrieved_passages", "live_retrieval") or config.passages_from == "retriever":
        return f"needs passages, and the database has none for {questions} questions"
    return f"needs passages, and none of {questions} questions has one; use passages_from=retriever"


def gold_contexts(question: Question) -> tuple[PassageLike, ...]:
    """The question's own contexts of the documents that hold the answer, named by id, or by title as in HotpotQA."""
    wanted = set(question.document_ids)
    return tuple(one for one in question.contexts if (one.document_id or one.title) in wanted or one.title in wanted)


def shuffled(passages: Sequence[Passages], seed: int) -> list[Passages]:
    """Each question's passages given to another.

    Question n gets those of question n + d, the same d for all and never 0, so every passage is used as often as
    before and no question keeps its own.

    Raises:
        ConfigError: Passages of one single question cannot be shuffled.
    """
    total = len(passages)
    if total < 2:
        raise ConfigError("generate.settings", "shuffled_passages", f"needs at least 2 questions, found {total}")
    shift = int(np.random.default_rng(seed).integers(1, total))
    return [passages[(number + shift) % total] for number in range(total)]
