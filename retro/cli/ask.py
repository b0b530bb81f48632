"""`retro ask`: one question answered at the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from retro.common.config import is_broken
from retro.common.errors import ConfigError
from retro.common.launcher import worker_of
from retro.common.terminal import output
from retro.qa.answer_files import Answer
from retro.run.config import RunConfig
from retro.run.pipeline import model_paths

SECTIONS = frozenset(RunConfig.model_fields)
"""First parts of the names of settings."""


def run_and_question(words: Sequence[str], *, needs_run: bool = True) -> tuple[list[str], str]:
    """Tell the words that name a run, its file and settings to change, from the question.

    A word is a setting where its name begins with a section of a run config; a question may hold an equals sign.

    Args:
        words: Of the command.
        needs_run: Whether a run must be named; else there are settings alone.

    Raises:
        ConfigError: There is no question, or more than one.
    """
    settings = [word for word in words if word.partition("=")[1] and word.split("=")[0].split(".")[0] in SECTIONS]
    texts = [word for word in words if word not in settings]
    files = [word for word in texts[:1] if needs_run and (word.endswith((".yaml", ".yml")) or len(texts) > 1)]
    questions = texts[len(files) :]
    example = 'as in `retro ask run.yaml "Who wrote it?"`'
    if len(questions) != 1:
        problem = "needs one question, in quotes" if questions else "needs a question"
        raise ConfigError("QUESTION", questions or None, f"{problem}, {example}")
    if not questions[0].strip() or is_broken(questions[0]):
        raise ConfigError("QUESTION", questions[0], f"needs text, in UTF-8, {example}")
    if needs_run and not (files or settings):
        raise ConfigError("CONFIG", None, f"needs a run's YAML file before the question, {example}")
    return [*files, *settings], questions[0]


def show_answer(config: RunConfig, question: str, *, passages_from: str, stream: bool, as_json: bool = False) -> None:
    """Answer a question and print the answer, then the passages that were read.

    Args:
        config: The run, whose `generate` section says how questions are asked.
        question: Its text.
        passages_from: See `retro.generate.one_question.answer_one`.
        stream: Whether to print the answer while it grows.
        as_json: Print answer and passages for machines.

    Raises:
        RetroError: As there.
    """
    from retro.generate.one_question import answer_one

    paths = model_paths(config)
    speaks = worker_of().rank == 0

    def say(text: str) -> None:
        if stream and speaks:
            # An answer may begin with the space that follows the prompt.
            output.stream_text(text)

    answer = answer_one(config.generate, config.parallel, paths, question, passages_from=passages_from, say=say)
    if speaks and as_json:
        output.json(asdict(answer))
    elif speaks:
        output.say("" if stream else answer.prediction, *passage_lines(answer))


def passage_lines(answer: Answer) -> list[str]:
    """The passages of an answer, one line each: row of the database, score, title and text."""
    lines = []
    for number, passage in enumerate(answer.passages, start=1):
        title = f"{passage.title}: " if passage.title else ""
        lines.append(
            f"[{number}] row {passage.row}, score {passage.score:.3f}  {title}{' '.join(passage.text.split())}"
        )
    return lines
