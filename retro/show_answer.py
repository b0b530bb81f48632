"""`retro ask`: one question answered at the terminal."""

from __future__ import annotations

from retro.common.answers import Answer
from retro.common.terminal import output
from retro.common.worker import worker_of
from retro.pipeline import database_dirs, stage
from retro.run_config import RunConfig


def show_answer(config: RunConfig, question: str, *, passages_from: str, stream: bool) -> None:
    """Answer a question and print the answer, then the passages that were read.

    Args:
        config: The run, whose `generate` section says how questions are asked.
        question: Its text.
        passages_from: See `retro.generate.single.answer_one`.
        stream: Whether to print the answer while it grows.

    Raises:
        RetroError: As there.
    """
    from retro.generate.single import Places, answer_one

    db, index = database_dirs(config, answers=True)
    places = Places(
        checkpoint=config.generate.checkpoint or stage("sft").path(config),
        corpus=stage("corpus").path(config),
        db=db,
        index=index,
    )
    speaks = worker_of().rank == 0

    def say(text: str) -> None:
        if stream and speaks:
            # An answer may begin with the space that follows the prompt.
            output.stream_text(text)

    answer = answer_one(config.generate, config.parallel, places, question, passages_from=passages_from, say=say)
    if speaks:
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
