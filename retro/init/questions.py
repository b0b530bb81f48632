"""The user's questions: read, parted into those to tune on, to validate and to ask, and what suits their answers."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retro.common.errors import DataError
from retro.corpus.split import split_documents
from retro.init.corpus_choices import Choice
from retro.init.training_choices import Training
from retro.qa.question import Question
from retro.qa.question_files import read_questions

log = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")
SHARE = 0.1
"""Of the questions, each to validate and to ask."""
MOST_ASKED = 100
"""Questions that are asked, each in three settings."""
SHORT_ANSWER = 8
"""Words of an answer that counts as a short one."""
_SEED = 1234
_FEWEST = 4
_TOKENS = (8, 96)
"""Bounds of an answer's length: a short model repeats itself long before the latter."""


@dataclass(frozen=True, kw_only=True)
class UserQuestions:
    """The questions, by part."""

    path: Path
    """The user's file."""
    parts: Mapping[str, tuple[Question, ...]]
    without_answer: int

    def count(self, part: str) -> int:
        """Questions of a part."""
        return len(self.parts[part])


def read_user_questions(path: Path) -> UserQuestions:
    """Read a question file and part it.

    Args:
        path: A JSON list of objects, or one object a line, in a layout that `retro.qa.question_files` reads.

    Raises:
        DataError: It cannot be read, or holds fewer than four questions with an answer.
    """
    reasons: Counter[str] = Counter()

    def count(reason: str, error: DataError) -> None:
        reasons[reason] += 1

    questions = read_questions(path, on_bad=count)
    if len(questions) < _FEWEST:
        problem = (
            f"holds {len(questions)} questions with an answer ({reasons.total()} have none); one to tune on, one to "
            "validate and two to ask are needed"
        )
        raise DataError(path, problem, "Give more questions, or leave --questions out")
    # Two to ask: one of them is asked with the other's passages.
    dev, test = max(SHARE, 1 / len(questions)), max(SHARE, 2 / len(questions))
    drawn = split_documents(len(questions), (1 - dev - test, dev, test), _SEED, "questions")
    parts = {name: tuple(questions[at] for at in np.flatnonzero(drawn == number)) for number, name in enumerate(PARTS)}
    return UserQuestions(path=path, parts=parts, without_answer=reasons.total())


def question_choices(
    asked: UserQuestions, files: Mapping[str, Path], trained: Training, tokens_of: Callable[[str], int]
) -> list[Choice]:
    """The settings of sft, generate and evaluate.

    Args:
        asked: The questions.
        files: Where each part is written.
        trained: The model and its steps.
        tokens_of: Tokens of a text.
    """
    answers = [one.answers[0] for one in asked.parts["train"]]
    short = float(np.median([len(answer.split()) for answer in answers])) <= SHORT_ANSWER
    task, kind = ("qa", "short_span") if short else ("longform", "full_answer")
    one_set = {"name": "questions", "kind": kind, "path": str(files["train"]), "dev": str(files["dev"])}
    counts = ", ".join(f"{asked.count(part):,} {part}" for part in PARTS)
    dropped = f"; {asked.without_answer} have no answer and are left out" if asked.without_answer else ""
    shaped, steps = trained.shaped, trained.tuning_steps
    epochs = steps * shaped.global_batch / asked.count("train")
    reported = f"{steps * shaped.global_batch:,} samples, each question {epochs:.2g} times"
    every = max(steps // 2, 1)
    why_task = "answers are short: exact match and F1" if short else "answers are sentences: F1 and ROUGE"
    return [
        Choice(setting="sft.data.sets", value=[one_set], why=f"{asked.path.name}, parted at random: {counts}{dropped}"),
        Choice(setting="sft.data.style", value="plain", why="a dozen tokens of prompt: the sequence is short"),
        Choice(setting="sft.data.passages_from", value="retriever", why="what this run's own index finds"),
        Choice(setting="sft.data.contexts_in_prompt", value=1, why="and two for the encoder"),
        Choice(setting="sft.data.skip_unusable", value=True, why="what does not fit the sequence is counted, no error"),
        Choice(setting="sft.train.steps", value=steps, why=reported),
        Choice(setting="sft.train.micro_batch", value=shaped.micro_batch, why=""),
        Choice(setting="sft.train.global_batch", value=shaped.global_batch, why=""),
        Choice(setting="sft.train.lr", value=shaped.tuning_lr, why=f"batch and rate: {shaped.tried}"),
        Choice(setting="sft.train.evaluate_every", value=every, why=""),
        Choice(setting="sft.train.save_every", value=every, why=""),
        Choice(setting="generate.task", value=task, why=why_task),
        Choice(setting="generate.questions", value=[str(files["test"])], why="never tuned on"),
        *([] if asked.count("test") <= MOST_ASKED else [_limit(asked)]),
        Choice(setting="generate.style", value="plain", why="as tuned"),
        Choice(setting="generate.passages_from", value="retriever", why="as tuned"),
        Choice(setting="generate.contexts_in_prompt", value=1, why="as tuned"),
        _answer_length(answers, tokens_of),
        Choice(setting="evaluate.report_questions", value=30, why="shown in full in report.html"),
    ]


def _limit(asked: UserQuestions) -> Choice:
    why = f"of {asked.count('test'):,}: each is answered three times, with passages, without, and with another's"
    return Choice(setting="generate.limit", value=MOST_ASKED, why=why)


def _answer_length(answers: Sequence[str], tokens_of: Callable[[str], int]) -> Choice:
    longest = float(np.percentile([tokens_of(answer) for answer in answers], 95))
    size = min(max(8 * math.ceil((longest + 1) / 8), _TOKENS[0]), _TOKENS[1])
    return Choice(
        setting="generate.max_new_tokens", value=size, why=f"19 of 20 answers have at most {longest:.0f} tokens"
    )
