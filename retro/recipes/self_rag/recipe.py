"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.files import read_json
from retro.generate.config import ModelPaths
from retro.index.retriever import open_retriever
from retro.qa.passages import Retrieve
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.self_rag import answers, critic_data, critic_scores, generator_data
from retro.recipes.self_rag.config import SelfRagConfig
from retro.recipes.self_rag.critic import Critic, open_critic
from retro.recipes.self_rag.items import write_items
from retro.recipes.self_rag.prompts import load_texts
from retro.recipes.self_rag.tokens import TOKENS
from retro.recipes.self_rag.tuning import tune
from retro.run.pipeline import database_dirs, model_paths


def _tune_critic(work: StepRun) -> Made:
    data, config = work.made_by("critic_data"), work.settings.critic.tune
    samples, dev = (data / critic_data.SAMPLES[part] for part in ("train", "dev"))
    manifest = tune(work, config, samples, dev if dev.stat().st_size else None, "critic")
    return _tuned(manifest.counts)


def _tuned(counts: Any) -> Made:
    return Made(files=["sft/manifest.json"], counts={"steps": counts["result"]["steps"]})


def _score_critic(work: StepRun) -> Made:
    critic = _critic(work)
    return critic_scores.run(critic, work.made_by("critic_data") / critic_data.DEV, work.directory)


def _make_data(work: StepRun) -> Made:
    config = work.settings.data
    critic = _critic(work)
    made = generator_data.make(
        config.items,
        config,
        critic,
        _search(work, max(config.evidence, config.top_n)),
        _identity(work, critic),
        work.directory,
    )
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
    made = _tuned(tune(work, config.generator.tune, samples, None, "self_rag").counts)
    return Made(files=[*files, *made.files], counts=made.counts)


def _critic(work: StepRun) -> Critic:
    config = work.settings.critic
    checkpoint = config.checkpoint or work.made_by("critic") / "sft"
    texts = load_texts(work.settings.prompts)
    return open_critic(
        checkpoint, model_paths(work.config), texts, work.home / "labels", config.batch_size, work.config.generate
    )


def _search(work: StepRun, passages: int) -> Retrieve:
    from retro.corpus.reader import Corpus

    corpus = Corpus.open(work.made_by("corpus"))
    return open_retriever(corpus, *database_dirs(work.config, answers=True), passages, work.config.search)


def _identity(work: StepRun, critic: Critic) -> dict[str, Any]:
    index = database_dirs(work.config, answers=True)[1]
    return {"critic": critic.identity, "index": read_json(index / "manifest.json", "Run `retro index`")["config"]}


def answer_paths(work: StepRun) -> ModelPaths:
    """The generator with the run's database."""
    checkpoint: Path = work.settings.generator.checkpoint or work.made_by("generator") / "sft"
    paths = model_paths(work.config)
    return ModelPaths(**{**vars(paths), "checkpoint": checkpoint})


def _answer(work: StepRun) -> Made:
    return answers.run(work, answer_paths(work))


def _needs_of_labels(settings: SelfRagConfig) -> tuple[str, ...]:
    return ("corpus",) if settings.critic.checkpoint is not None else ("critic", "corpus")


def _needs_of_scores(settings: SelfRagConfig) -> tuple[str, ...]:
    return (*_needs_of_labels(settings), "critic_data")


def _needs_of_data(settings: SelfRagConfig) -> tuple[str, ...]:
    return (*_needs_of_labels(settings), "db", "index")


def _needs_of_generator(settings: SelfRagConfig) -> tuple[str, ...]:
    return ("corpus",) if settings.data.samples is not None else ("generator_data", "corpus")


def _needs_of_answers(settings: SelfRagConfig) -> tuple[str, ...]:
    return () if settings.generator.checkpoint is not None else ("generator",)


def _tunes_critic(settings: SelfRagConfig) -> bool:
    return settings.critic.has_data and settings.critic.checkpoint is None


def _tunes_generator(settings: SelfRagConfig) -> bool:
    return settings.data.is_given and settings.generator.checkpoint is None


def _has_generator(settings: SelfRagConfig) -> bool:
    return settings.data.is_given or settings.generator.checkpoint is not None


_LABELS = ("items", "labelled", "teacher", "temperature", "max_tokens", "drop_relevant", "dev", "seed")


class SelfRag:
    """Self-RAG (Asai et al. 2024)."""

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
            wanted=lambda settings: settings.critic.has_data,
        ),
        Step(
            name="critic",
            summary="Tune the critic.",
            run=_tune_critic,
            needs=("critic_data", "corpus"),
            settings=("critic.tune",),
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
            settings=("data", "critic.checkpoint", "prompts"),
            sections=("search",),
            wanted=lambda settings: settings.data.items is not None,
        ),
        Step(
            name="generator",
            summary="Tune the model that answers.",
            run=_tune_generator,
            needs=_needs_of_generator,
            settings=("data.samples", "generator.tune"),
            wanted=_tunes_generator,
        ),
        Step(
            name="answer",
            summary="Answer questions, in each mode.",
            run=_answer,
            needs=_needs_of_answers,
            settings=("generator.checkpoint", "decode", "prompts"),
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
