"""From settings to a model, a retriever and a way to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.common.precision import choose
from retro.generate.config import GenerateConfig, ModelPaths
from retro.qa.question import Question
from retro.recipes.base import StepRun
from retro.recipes.multi_hop.adaptive import adaptive
from retro.recipes.multi_hop.answer_config import AnswerConfig, ModelConfig, RetrieverConfig
from retro.recipes.multi_hop.decompose import decompose, one_search
from retro.recipes.multi_hop.dialogs import Chat, Dialog, DialogTexts, FunctionCalls
from retro.recipes.multi_hop.ircot import ircot
from retro.recipes.multi_hop.protocol import Answer, LanguageModel, Retriever
from retro.recipes.multi_hop.retrievers import (
    FromAddress,
    FromContexts,
    FromFolder,
    FromSearch,
    opened_embedder,
    windows_of,
)
from retro.run.config import RunConfig
from retro.run.pipeline import database_dirs, model_paths


def way_of(config: AnswerConfig, texts: DialogTexts) -> Answer:
    """How a question is answered.

    Raises:
        ConfigError: There are not so many examples.
    """
    longest = config.model.max_new_tokens
    dialog: Dialog = FunctionCalls(texts, longest)
    if config.form == "chat":
        dialog = Chat(texts, longest, config.examples)
    several: Answer = partial(decompose, dialog=dialog, hops=config.hops)
    ways: dict[str, Answer] = {
        "decompose": several,
        "one_search": partial(one_search, dialog=dialog),
        "ircot": partial(ircot, texts=texts, hops=config.hops, max_new_tokens=longest),
        "adaptive": partial(adaptive, texts=texts, several=several, max_new_tokens=longest),
    }
    return ways[config.method]


@contextmanager
def opened_retriever(config: RetrieverConfig, run: RunConfig, questions: Sequence[Question]) -> Iterator[Retriever]:
    """What searches.

    Args:
        config: Which.
        run: Its database.
        questions: Those that will be asked, whose own passages may be searched.

    Raises:
        ConfigError: Passages of the questions are to be searched, and they have none.
        RetroError: Something that is searched is missing or damaged, or an embedder cannot be opened.
    """
    if config.kind == "live":
        yield FromAddress(config.address, config.n, config.timeout_s)
    elif config.kind == "database":
        from retro.recipes.passages.search import DatabaseRetriever

        corpus = model_paths(run).corpus
        yield FromSearch(DatabaseRetriever(corpus, *database_dirs(run, answers=True), run.search), config.n)
    elif config.kind == "passages":
        from retro.recipes.passages.search import PassageRetriever

        yield FromSearch(PassageRetriever.open(config.table), config.n)
    elif config.folder is not None and config.kind == "folder":
        windows = windows_of(config.folder, config.window, config.step)
        with opened_embedder(config.embedder, [one.text for one in windows]) as embedder:
            yield FromFolder(embedder, windows, config.n)
    else:
        if questions and not any(one.contexts for one in questions):
            need = f"needs questions that bring passages, and none of {len(questions)} does; search something else"
            raise ConfigError("answer.retriever.kind", config.kind, need)
        texts = [f"{passage.title} {passage.text}" for one in questions for passage in one.contexts]
        with opened_embedder(config.embedder, texts) as embedder:
            yield FromContexts(embedder, config.n)


def answering_paths(run: RunConfig, config: ModelConfig, tuned: Path) -> ModelPaths:
    """The model that answers, with the run's corpus."""
    return replace(model_paths(run), checkpoint=config.path or tuned)


def answering_config(run: RunConfig, config: AnswerConfig) -> GenerateConfig:
    """Settings for opening it: nothing is searched or read but what the conversation has."""
    changes: dict[str, Any] = {"settings": ("closed_book",), "encoder": False, "batch_size": config.batch_size}
    changes |= {"sequence_length": config.model.sequence_length, "contexts_in_prompt": 0, "passages_from": "contexts"}
    # So that the token with which the template ends a turn ends a reply.
    changes |= {"style": "chat"} if config.form == "chat" else {}
    return run.generate.model_copy(update=changes)


def opened_model(
    work: StepRun, config: AnswerConfig, tuned: Path, begun: str | None = None
) -> AbstractContextManager[LanguageModel]:
    """What answers.

    Args:
        work: The step.
        config: Which model.
        tuned: The one that this recipe tuned.
        begun: The precision that answers were begun in, if any were.

    Raises:
        RetroError: It cannot be opened.
    """
    model = config.model
    if model.kind == "teacher":
        return _teacher(work, model)
    if model.kind == "server":
        from retro.recipes.multi_hop.codec import codec_of_folder
        from retro.recipes.multi_hop.server_model import ServerModel

        return nullcontext(ServerModel(model, None if model.tokenizer is None else codec_of_folder(model.tokenizer)))
    if model.kind == "transformers" and model.path is not None:
        from retro.recipes.multi_hop.hf_model import TransformersModel

        choice = choose(work.config.generate.precision, begun=begun)
        if choice.precision == "float16_weights":
            raise ConfigError(
                "generate.precision", choice.precision, "needs float32 or bfloat16 with kind: transformers"
            )
        choice.tell("generate.precision")
        how: dict[str, Any] = {"sequence_length": model.sequence_length, "temperature": model.temperature}
        return nullcontext(TransformersModel(model.path, **how, seed=config.seed, precision=choice.precision))
    return nullcontext(_engine(work.config, config, tuned, begun))


def _engine(run: RunConfig, config: AnswerConfig, tuned: Path, begun: str | None) -> LanguageModel:
    from retro.generate.loading import find_checkpoint
    from retro.generate.open_model import OpenModel
    from retro.generate.request import Sampling
    from retro.recipes.multi_hop.codec import codec_of
    from retro.recipes.multi_hop.models import EngineModel
    from retro.training import checkpoint

    paths = answering_paths(run, config.model, tuned)
    generate = answering_config(run, config)
    model = OpenModel(generate, find_checkpoint(generate, paths.checkpoint), paths, run.parallel)
    precision = model.prepare(begun or None).precision
    identity = {"kind": "engine", "checkpoint": checkpoint.identity(model.info.path), "precision": precision}
    sampling = Sampling(temperature=config.model.temperature, seed=config.seed)
    return EngineModel(model.engine, codec_of(model.tokenizer, model.prefix), identity, sampling)


@contextmanager
def _teacher(work: StepRun, config: ModelConfig) -> Iterator[LanguageModel]:
    from retro.recipes.multi_hop.models import ChatModel

    work.directory.mkdir(parents=True, exist_ok=True)
    with work.teacher(config.teacher) as teacher:
        yield ChatModel(teacher, {"kind": "teacher", **config.teacher.shaping}, config.temperature)
