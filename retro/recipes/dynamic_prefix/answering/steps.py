"""The steps `encode` and `answer`, and what the server is given, each a thin call of the module that does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retro.recipes.base import Made, Served, Step, StepRun
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig

if TYPE_CHECKING:
    from retro.recipes.passages.search import PassageSearch
    from retro.run.config import RunConfig

_TEST = "test.jsonl"
"""The questions that are answered: of the step `retrieve`, or of `joint`, whose retriever found their documents."""


def _encode(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.answering import encode
    from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix

    of_questions = work.settings.store.documents == "questions"
    questions = [work.made_by(_source(work.settings)) / _TEST] if of_questions else []
    return encode.run(work, TrainedPrefix.of(work.made_by(work.settings.answer.reader)), questions)


def _answer(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.answering import answers
    from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix

    store = work.made_by("encode") if uses_store(work.settings) else None
    trained = TrainedPrefix.of(work.made_by(work.settings.answer.reader))
    return answers.answer(work, work.made_by(_source(work.settings)) / _TEST, trained, store, _search(work))


def _search(work: StepRun) -> PassageSearch | None:
    if not work.settings.answer.search:
        return None
    from retro.recipes.passages.source import search_of

    return search_of(work, work.settings.data.passages)


def serve(run: RunConfig, settings: DynamicPrefixConfig, home: Path) -> Served:
    """What `retro serve` answers with.

    Args:
        run: The run.
        settings: The recipe's.
        home: The recipe's folder in the run directory.

    Raises:
        RetroError: What is searched or stored, or the model, cannot be opened.
    """
    from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix
    from retro.recipes.dynamic_prefix.answering.serving import served
    from retro.recipes.dynamic_prefix.answering.store import HEADER

    # Documents that are found alive need not be stored.
    store = home / "encode"
    there = uses_store(settings) and (store / HEADER).exists()
    return served(run, settings, TrainedPrefix.of(home / settings.answer.reader), store if there else None)


def uses_store(settings: DynamicPrefixConfig) -> bool:
    """Whether documents are encoded before questions are asked."""
    reads = settings.answer.documents or settings.prefix.documents
    return settings.answer.stored and "prefix" in settings.answer.modes and bool(reads)


def _source(settings: DynamicPrefixConfig) -> str:
    """The step that leaves the questions which are answered."""
    return "joint" if settings.answer.reader == "joint" else "retrieve"


def _needs_of_encoding(settings: DynamicPrefixConfig) -> tuple[str, ...]:
    of_questions = (_source(settings),) if settings.store.documents == "questions" else ()
    return tuple(dict.fromkeys((settings.answer.reader, *of_questions)))


def _needs_of_answers(settings: DynamicPrefixConfig) -> tuple[str, ...]:
    searched = settings.answer.search and settings.data.passages.passages is None
    return (
        *dict.fromkeys((_source(settings), settings.answer.reader)),
        *(("encode",) if uses_store(settings) else ()),
        *(("corpus", "db", "index") if searched else ()),
    )


def _answers(settings: DynamicPrefixConfig) -> bool:
    return settings.data.train is not None and settings.data.test is not None


def _stores(settings: DynamicPrefixConfig) -> bool:
    all_passages = settings.data.train is not None and settings.store.documents == "passages"
    return uses_store(settings) and (all_passages or _answers(settings))


def _passages(work: StepRun, read: bool) -> list[Path]:
    """The file of passages, where one is given and read: what follows is made again once it is another."""
    file: Path | None = work.settings.data.passages.passages
    return [file] if read and file is not None else []


ENCODE = Step(
    name="encode",
    summary="Encode documents once, for all questions that will be asked.",
    run=_encode,
    needs=_needs_of_encoding,
    settings=("store", "data.passages", "answer.documents", "answer.reader"),
    inputs=lambda work: _passages(work, work.settings.store.documents == "passages"),
    wanted=_stores,
)

ANSWER = Step(
    name="answer",
    summary="Answer the test questions with documents as a prefix, as text, and without.",
    run=_answer,
    needs=_needs_of_answers,
    settings=("answer", "train.question", "data.passages"),
    sections=("generate", "search"),
    inputs=lambda work: _passages(work, work.settings.answer.search),
    collective=True,
    wanted=_answers,
)
