"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.recipes.base import Made, Step, StepRun
from retro.recipes.instruct_rag import answers, data, rationales
from retro.recipes.instruct_rag.config import InstructRagConfig
from retro.recipes.instruct_rag.start import base_model, identity_of, teaches_itself, tuned_model
from retro.recipes.passages.source import search_of


def _retrieve(work: StepRun) -> Made:
    from retro.recipes.passages.retrieve import retrieve_for_file

    config = work.settings
    known = data.known_set(work)
    files, counts = [], {}
    for name, path, documents in (
        (data.TRAIN, config.train, config.documents),
        (data.TEST, config.test, config.documents_of_test),
    ):
        if path is not None:
            report = retrieve_for_file(
                path, work.directory / name, search_of(work, config.passages),
                n_docs=documents.count or known.documents, questions_per_block=config.passages.questions_per_block,
            )  # fmt: skip
            files.append(name)
            counts[name] = report.counts
    return Made(files=files, counts=counts)


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _questions(work: StepRun) -> list[Path]:
    return _given(work.settings.train, work.settings.test, work.settings.sets)


def _needs_of_search(settings: InstructRagConfig) -> tuple[str, ...]:
    return () if settings.passages.passages is not None else ("corpus", "db", "index")


def _needs_recall(settings: InstructRagConfig) -> bool:
    return settings.recall or (settings.rationale.by_situation and settings.needs_rationales)


def _needs_of_rationales(settings: InstructRagConfig) -> tuple[str, ...]:
    return ("data", *(("recall",) if settings.rationale.by_situation else ()))


def _needs_of_tuning(settings: InstructRagConfig) -> tuple[str, ...]:
    own = ("rationales",) if settings.learn == "rationale" else ()
    return ("data", *own, *(("recall",) if settings.recall else ()), "corpus")


def _needs_of_answers(settings: InstructRagConfig) -> tuple[str, ...]:
    shown = bool({"icl", "few_shot"} & set(settings.modes)) and settings.demonstrations.file is None
    return (
        "data",
        *(("recall",) if settings.recall else ()),
        *(("rationales",) if shown else ()),
        *(("tune",) if settings.tunes else ()),
    )


def _answers(settings: InstructRagConfig) -> bool:
    return settings.test is not None


def _own_teacher(work: StepRun) -> Mapping[str, Any]:
    return identity_of(base_model(work)) if teaches_itself(work) else {}


def _answering_models(work: StepRun) -> Mapping[str, Any]:
    modes = work.settings.modes
    base = {} if modes == ("ft",) else identity_of(base_model(work))
    return {"base": base, "tuned": identity_of(tuned_model(work)) if "ft" in modes else {}}


_RECALL = ("teacher", "temperature", "seed", "limit", "max_tokens")
_ANSWERS = ("modes", "demonstrations", "checkpoint", "recall", "max_new_tokens")
_SAMPLES = ("rationale.keep", "rationale.keep_cut", "recall", "learn", "tune", "documents", "prompts")


class InstructRag:
    """InstructRAG (Wei et al. 2025)."""

    name = "instruct_rag"
    summary = "InstructRAG (Wei et al. 2025, arXiv:2406.13629): rationales that say which documents lead to the answer"
    config = InstructRagConfig
    special_tokens: tuple[str, ...] = ()
    steps = (
        Step(
            name="retrieve",
            summary="Search passages for all questions.",
            run=_retrieve,
            needs=_needs_of_search,
            settings=("set", "train", "test", "passages", "documents.count", "test_documents"),
            inputs=_questions,
            sections=("search",),
            wanted=lambda settings: settings.retrieve,
        ),
        Step(
            name="data",
            summary="Choose the documents, and measure how often they hold an answer.",
            run=data.run,
            needs=lambda settings: ("retrieve",) if settings.retrieve else (),
            settings=("set", "train", "test", "retrieve", "documents", "test_documents"),
            inputs=_questions,
        ),
        Step(
            name="recall",
            summary="The model says what it knows without documents.",
            run=rationales.recall,
            needs=("data",),
            settings=("recall", "learn", *(f"rationale.{name}" for name in _RECALL), "prompts"),
            facts=_own_teacher,
            inputs=lambda work: _given(work.settings.prompts),
            wanted=_needs_recall,
        ),
        Step(
            name="rationales",
            summary="Explain how the documents lead to the answer, for each training question.",
            run=rationales.run,
            needs=_needs_of_rationales,
            settings=("rationale", "prompts"),
            facts=_own_teacher,
            inputs=lambda work: _given(work.settings.prompts),
            wanted=lambda settings: settings.needs_rationales,
        ),
        Step(
            name="tune",
            summary="Tune the model on them.",
            run=answers.tune_model,
            collective=True,
            needs=_needs_of_tuning,
            settings=_SAMPLES,
            inputs=lambda work: _given(work.settings.prompts),
            sections=("sft",),
            wanted=lambda settings: settings.tunes and settings.train is not None,
        ),
        Step(
            name="answer",
            summary="Answer the test questions in each mode.",
            run=answers.run,
            collective=True,
            needs=_needs_of_answers,
            settings=(*_ANSWERS, "metrics", "prompts"),
            facts=_answering_models,
            inputs=lambda work: _given(
                work.settings.demonstrations.file, work.settings.prompts, work.settings.checkpoints
            ),
            sections=("generate",),
            wanted=_answers,
        ),
        Step(
            name="scores",
            summary="Score the answers, compare the modes, and show cases.",
            run=answers.score,
            needs=("answer",),
            settings=("modes", "metrics", "cases"),
            sections=("evaluate",),
            wanted=_answers,
        ),
    )
