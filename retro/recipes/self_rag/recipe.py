"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from retro.generate.config import ModelPaths
from retro.recipes.base import Made, Served, Step, StepRun, recipe_path
from retro.recipes.passages.search import PassageSearch, as_retrieve
from retro.recipes.self_rag import answers, critic_data, critic_scores, generator_data
from retro.recipes.self_rag.config import SelfRagConfig
from retro.recipes.self_rag.critic import Critic, open_critic
from retro.recipes.self_rag.items import write_items
from retro.recipes.self_rag.policy import program_for
from retro.recipes.self_rag.prompts import KIND, STYLE, load_texts
from retro.recipes.self_rag.tokens import TOKENS
from retro.recipes.tuning import tune
from retro.run.config import RunConfig
from retro.run.pipeline import database_dirs, model_paths

RETRIEVED = "retrieved.jsonl"


def _tune_critic(work: StepRun) -> Made:
    data, config = work.made_by("critic_data"), work.settings.critic.tune
    samples, dev = (data / critic_data.SAMPLES[part] for part in ("train", "dev"))
    held_out = dev if dev.stat().st_size else None
    manifest = tune(work, config, samples, held_out, "critic", kind=KIND, prompts=STYLE)
    return _tuned(manifest.counts)


def _tuned(counts: Any) -> Made:
    return Made(files=["sft/manifest.json"], counts={"steps": counts["result"]["steps"]})


def _score_critic(work: StepRun) -> Made:
    critic = _critic(work)
    return critic_scores.run(critic, work.made_by("critic_data") / critic_data.DEV, work.directory)


def _make_data(work: StepRun) -> Made:
    config = work.settings.data
    critic, source = _critic(work), source_of(work)
    identity = {"critic": critic.identity, "passages": dict(source.identity)}
    retrieve = as_retrieve(source, max(config.evidence, config.top_n))
    made = generator_data.make(config.items, config, critic, retrieve, identity, work.directory)
    files = [generator_data.TRAIN, generator_data.SAMPLES, generator_data.EXAMPLES]
    counts = {"samples": made.samples, "branches": made.branches, "dropped": made.dropped}
    return Made(files=files, counts=counts)


def _tune_generator(work: StepRun) -> Made:
    config = work.settings
    files: list[str] = []
    if config.data.samples is not None:
        samples = work.directory / generator_data.SAMPLES
        write_items(samples, generator_data.samples_of_published(config.data.samples))
        files.append(samples.name)
    else:
        samples = work.made_by("generator_data") / generator_data.SAMPLES
    manifest = tune(work, config.generator.tune, samples, None, "self_rag", kind=KIND, prompts=STYLE)
    made = _tuned(manifest.counts)
    return Made(files=[*files, *made.files], counts=made.counts)


def _critic(work: StepRun) -> Critic:
    config = work.settings.critic
    checkpoint = config.checkpoint or work.made_by("critic") / "sft"
    texts = load_texts(work.settings.prompts)
    return open_critic(
        checkpoint, model_paths(work.config), texts, work.home / "labels", config.batch_size, work.config.generate
    )


def source_of(work: StepRun) -> PassageSearch:
    """What finds passages: those of the settings, or the run's database."""
    from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever

    if work.settings.passages.passages is not None:
        return PassageRetriever.open(work.settings.passages)
    return DatabaseRetriever(work.made_by("corpus"), *database_dirs(work.config, answers=True), work.config.search)


def _retrieve(work: StepRun) -> Made:
    from retro.recipes.passages.retrieve import retrieve_for_file

    config = work.settings.passages
    report = retrieve_for_file(
        work.settings.retrieve, work.directory / RETRIEVED, source_of(work),
        n_docs=work.settings.decode.ndocs, questions_per_block=config.questions_per_block,
    )  # fmt: skip
    answers.ask_instructions(work.directory / RETRIEVED)
    return Made(files=[RETRIEVED], counts=report.counts)


def answer_paths(work: StepRun) -> ModelPaths:
    """The generator with the run's database."""
    checkpoint: Path = work.settings.generator.checkpoint or work.made_by("generator") / "sft"
    return replace(model_paths(work.config), checkpoint=checkpoint)


def _answer(work: StepRun) -> Made:
    config = work.settings
    again = config.decode.form == "long" and config.decode.search_each_segment
    search = as_retrieve(source_of(work), config.decode.ndocs) if again else None
    retrieved = work.made_by("retrieve") / RETRIEVED if config.retrieve is not None else None
    return answers.run(work, answer_paths(work), search, retrieved)


def _needs_of_labels(settings: SelfRagConfig) -> tuple[str, ...]:
    return ("corpus",) if settings.critic.checkpoint is not None else ("critic", "corpus")


def _needs_of_scores(settings: SelfRagConfig) -> tuple[str, ...]:
    return (*_needs_of_labels(settings), "critic_data")


def _needs_of_search(settings: SelfRagConfig) -> tuple[str, ...]:
    return () if settings.passages.passages is not None else ("corpus", "db", "index")


def _needs_of_data(settings: SelfRagConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_needs_of_labels(settings), *_needs_of_search(settings))))


def _needs_of_generator(settings: SelfRagConfig) -> tuple[str, ...]:
    return ("corpus",) if settings.data.samples is not None else ("generator_data", "corpus")


def _needs_of_answers(settings: SelfRagConfig) -> tuple[str, ...]:
    generator = () if settings.generator.checkpoint is not None else ("generator",)
    retrieved = () if settings.retrieve is None else ("retrieve",)
    again = settings.decode.form == "long" and settings.decode.search_each_segment
    return (*generator, *retrieved, *(_needs_of_search(settings) if again else ()))


def _tunes_critic(settings: SelfRagConfig) -> bool:
    return settings.critic.has_data and settings.critic.checkpoint is None


def _tunes_generator(settings: SelfRagConfig) -> bool:
    return settings.data.is_given and settings.generator.checkpoint is None


def _has_generator(settings: SelfRagConfig) -> bool:
    return settings.data.is_given or settings.generator.checkpoint is not None


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _inputs_of_labels(work: StepRun) -> list[Path]:
    return _given(work.settings.critic.items, work.settings.critic.labelled, work.settings.prompts)


def _inputs_of_data(work: StepRun) -> list[Path]:
    return _given(work.settings.data.items, work.settings.prompts)


def _inputs_of_answers(work: StepRun) -> list[Path]:
    asked = () if work.settings.retrieve is not None else work.config.generate.questions
    return _given(*asked, work.settings.prompts)


_LABELS = ("items", "labelled", "teacher", "temperature", "max_tokens", "drop_relevant", "dev", "seed")


class SelfRag:
    """Self-RAG (Asai et al. 2024)."""

    def serve(self, config: RunConfig, settings: SelfRagConfig) -> Served:
        """Answer chats as questions are answered, in the first of the modes."""
        home = recipe_path(config, self)
        paths = model_paths(config)
        checkpoint = settings.generator.checkpoint or home / "generator" / "sft"
        generate = answers.generate_settings(config.generate, settings.decode)
        return Served(
            generate=generate.model_copy(update={"batch_size": settings.generator.batch_size}),
            paths=replace(paths, checkpoint=checkpoint), kind=KIND, begin=program_for(settings.decode),
        )  # fmt: skip

    name = "self_rag"
    summary = "Self-RAG (Asai et al. 2024, arXiv:2310.11511): a model that says when to search, and judges itself"
    config = SelfRagConfig
    special_tokens = TOKENS
    steps = (
        Step(
            name="critic_data",
            summary="A teacher labels what the critic learns.",
            run=critic_data.run,
            settings=(*(f"critic.{name}" for name in _LABELS), "prompts"),
            inputs=_inputs_of_labels,
            wanted=lambda settings: settings.critic.has_data,
        ),
        Step(
            name="critic",
            summary="Tune the critic.",
            run=_tune_critic,
            needs=("critic_data", "corpus"),
            settings=("critic.tune",),
            sections=("sft",),
            wanted=_tunes_critic,
        ),
        Step(
            name="critic_scores",
            summary="How often the critic agrees with the teacher.",
            run=_score_critic,
            needs=_needs_of_scores,
            settings=("critic.checkpoint", "prompts"),
            wanted=lambda settings: settings.critic.has_data,
        ),
        Step(
            name="generator_data",
            summary="Critic and retriever make training data.",
            run=_make_data,
            needs=_needs_of_data,
            settings=("data", "critic.checkpoint", "passages", "prompts"),
            inputs=_inputs_of_data,
            sections=("search",),
            wanted=lambda settings: settings.data.items is not None,
        ),
        Step(
            name="generator",
            summary="Tune the model that answers.",
            run=_tune_generator,
            needs=_needs_of_generator,
            settings=("data.samples", "generator.tune"),
            sections=("sft",),
            inputs=lambda work: _given(work.settings.data.samples),
            wanted=_tunes_generator,
        ),
        Step(
            name="retrieve",
            summary="Passages for the questions that are answered.",
            run=_retrieve,
            needs=_needs_of_search,
            settings=("retrieve", "passages", "decode.ndocs"),
            inputs=lambda work: _given(work.settings.retrieve),
            sections=("search",),
            wanted=lambda settings: settings.retrieve is not None,
        ),
        Step(
            name="answer",
            summary="Answer questions, in each mode.",
            run=_answer,
            needs=_needs_of_answers,
            settings=("generator.checkpoint", "decode", "metrics", "prompts"),
            inputs=_inputs_of_answers,
            sections=("generate", "search"),
            wanted=_has_generator,
        ),
        Step(
            name="scores",
            summary="Score the answers, and compare the modes.",
            run=answers.score,
            needs=("answer",),
            settings=("decode",),
            sections=("evaluate",),
            wanted=_has_generator,
        ),
    )
