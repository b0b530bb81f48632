"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from pathlib import Path

from retro.common.artifacts import MANIFEST
from retro.evaluate.scores import PER_QUESTION, SCORES
from retro.recipes.base import Served, Step, StepRun, recipe_path
from retro.recipes.multi_hop import answers, convert, create, tuning
from retro.recipes.multi_hop.config import MultiHopConfig
from retro.recipes.multi_hop.conversation import TOKENS
from retro.run.config import RunConfig


def _tunes(settings: MultiHopConfig) -> bool:
    return tuning.tunes(settings)


def _answers(settings: MultiHopConfig) -> bool:
    return settings.answer.questions is not None


def _needs_of_answers(settings: MultiHopConfig) -> tuple[str, ...]:
    model, retriever = settings.answer.model, settings.answer.retriever
    own = ("model",) if model.kind == "engine" and model.path is None else ()
    return (*own, *(("corpus", "db", "index") if retriever.kind == "database" else ()))


def _inputs_of_samples(work: StepRun) -> list[Path]:
    training = work.settings.training
    return _files(training.items, training.validation, work.settings.answer.texts)


def _inputs_of_answers(work: StepRun) -> list[Path]:
    answer = work.settings.answer
    model, retriever = answer.model, answer.retriever
    searched = {"folder": retriever.folder, "passages": retriever.table.passages}.get(retriever.kind)
    tokenizer = model.tokenizer if model.kind == "server" else None
    weights = _weights(model.path) if model.kind in ("engine", "transformers") else []
    return [*_files(answer.questions, answer.texts, searched, tokenizer), *weights]


def _weights(path: Path | None) -> list[Path]:
    """What tells one model from another at the same place: of a stage of ours the manifest, else all files."""
    if path is not None and (path / MANIFEST).is_file():
        return [path / MANIFEST]
    # Hidden ones are notes of whoever opens it.
    return [file for file in _files(path) if not file.name.startswith(".")]


def _inputs_of_scores(work: StepRun) -> list[Path]:
    other = work.settings.answer.compare_with
    if other is None:
        return []
    found = answers.compared_with(other).directory
    return [found / name for name in (SCORES, PER_QUESTION)]


def _files(*paths: Path | None) -> list[Path]:
    """The files that are given, and those in folders that are."""
    found = [path for path in paths if path is not None]
    inside = (sorted(path.rglob("*")) if path.is_dir() else [path] for path in found)
    return [file for files in inside for file in files if not file.is_dir()]


_SAMPLES = ("items", "validation", "validation_share", "seed", "skip_bad")
_ANSWERING = (
    "questions",
    "task",
    "count",
    "seed",
    "method",
    "form",
    "examples",
    "hops",
    "retriever",
    "model",
    "metrics",
)


class MultiHop:
    """Multi-hop questions by decomposition, after qa_expert (Mai 2023)."""

    def serve(self, config: RunConfig, settings: MultiHopConfig) -> Served:
        """Answer chats as questions are answered."""
        from retro.recipes.multi_hop.serving import served

        return served(config, settings.answer, recipe_path(config, self) / "model" / "sft")

    name = "multi_hop"
    summary = "Multi-hop questions by decomposition (qa_expert, Mai 2023): one look-up for each sub-question"
    config = MultiHopConfig
    special_tokens = TOKENS
    steps = (
        Step(
            name="convert",
            summary="SQuAD, BoolQ, DROP and MuSiQue become items with full answers.",
            run=convert.run,
            settings=("convert", "prompts"),
            inputs=convert.inputs,
            wanted=lambda settings: settings.convert.is_given,
        ),
        Step(
            name="create",
            summary="A teacher makes multi-hop questions with paragraphs and answers.",
            run=create.run,
            settings=("create", "prompts"),
            inputs=create.inputs,
            wanted=lambda settings: settings.create.categories is not None,
        ),
        Step(
            name="samples",
            summary="Items become conversations with function calls.",
            run=tuning.write_samples,
            needs=tuning.needs_of_samples,
            settings=(*(f"training.{name}" for name in _SAMPLES), "answer.texts"),
            inputs=_inputs_of_samples,
            wanted=_tunes,
        ),
        Step(
            name="model",
            summary="Tune a model on them.",
            run=tuning.tune_model,
            needs=("samples", "corpus"),
            settings=("training.tune",),
            sections=("sft",),
            wanted=_tunes,
        ),
        Step(
            name="export",
            summary="The tuned model as a folder with a card, ready to be uploaded.",
            run=tuning.export_model,
            needs=("model",),
            wanted=lambda settings: settings.training.export,
        ),
        Step(
            name="answer",
            summary="Answer questions: decompose, look up, summarise.",
            run=answers.answer,
            needs=_needs_of_answers,
            settings=tuple(f"answer.{name}" for name in _ANSWERING),
            sections=("generate", "search"),
            inputs=_inputs_of_answers,
            wanted=_answers,
        ),
        Step(
            name="scores",
            summary="Score the answers, and compare two models.",
            run=answers.scores,
            needs=("answer",),
            settings=("answer.metrics", "answer.compare_with"),
            sections=("evaluate",),
            inputs=_inputs_of_scores,
            wanted=_answers,
        ),
    )
