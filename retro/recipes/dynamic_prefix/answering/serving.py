"""The recipe behind `retro serve`: a chat's last message is answered with documents as keys and values.

The documents are those that came with the request, or that a search finds for the message: in the passages of the
recipe, where these have a file, else in the run's database. Which were read stands in the details of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from retro.generate.engine import BatchEngine
from retro.generate.program import BeginRequest, Program
from retro.generate.request import Completion, Request, Retrieved
from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike
from retro.recipes.base import Served
from retro.recipes.dynamic_prefix.answering.answers import generate_settings
from retro.recipes.dynamic_prefix.answering.config import Mode
from retro.recipes.dynamic_prefix.answering.documents import KnowledgeSource
from retro.recipes.dynamic_prefix.answering.policy import (
    TrainedPrefix,
    documents_read,
    open_source,
    open_store,
    question_prompts,
    told,
    with_documents,
)
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.passages.search import PassageRetriever, as_record, as_retrieve
from retro.run.config import RunConfig
from retro.run.pipeline import model_paths

KIND = "conversation"
"""The kind of question that a chat's last message is."""


def served(run: RunConfig, settings: DynamicPrefixConfig, trained: TrainedPrefix, store: Path | None) -> Served:
    """What the server answers with.

    Args:
        run: The run.
        settings: The recipe's.
        trained: Encoder and prefix, and the name of the network.
        store: The folder of the step `encode`; None: each document is encoded when it is first found.

    Raises:
        RetroError: What is searched or stored, or the model, cannot be opened.
    """
    # Now, not with the first request: what is stored may be of another training.
    stored = open_store(settings, trained.identity, store)
    search, generate = None, generate_settings(run.generate, settings)
    if settings.data.passages.passages is not None:
        search = as_retrieve(PassageRetriever.open(settings.data.passages), documents_read(settings))
        # The server itself need not search the run's database then.
        generate = generate.model_copy(update={"contexts_in_prompt": 0})
    return Served(
        generate=generate,
        paths=replace(model_paths(run), checkpoint=trained.run),
        kind=KIND,
        begin=program_for(settings, lambda engine: open_source(engine, settings, trained.identity, stored), search),
        modules=trained.modules,
    )


def program_for(
    settings: DynamicPrefixConfig,
    open_documents: Callable[[BatchEngine], KnowledgeSource],
    search: Retrieve | None = None,
) -> BeginRequest:
    """The programs of a server; a plain continuation is continued.

    Args:
        settings: The recipe's; the first of its modes answers.
        open_documents: Documents for the model of an engine; called once for each.
        search: Finds documents for a question that comes without any; None: it is answered without.
    """
    opened: list[tuple[BatchEngine, KnowledgeSource]] = []
    mode = settings.answer.modes[0]
    find = None if search is None else _searching(search)

    def source_of(engine: BatchEngine) -> KnowledgeSource:
        if not opened or opened[0][0] is not engine:
            opened[:] = [(engine, open_documents(engine))]
        return opened[0][1]

    def begin(engine: BatchEngine, request: Request) -> Program:
        if not request.question:
            return _plain(request)
        # Now, while only this request can be refused for it.
        new_tokens = request.sampling.max_new_tokens
        [prompt] = question_prompts([request.question], engine, settings.train, new_tokens)
        source = source_of(engine) if mode == "prefix" else None
        documents = _Documents(mode, source, documents_read(settings))
        return _answer(engine, request, prompt, documents, find)

    return begin


def _searching(search: Retrieve) -> Callable[[list[str]], Future[Any]]:
    """The search, begun on a thread of its own: a retriever is used by one at a time, and others are answered."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="dynamic_prefix_search")

    def find(texts: list[str]) -> Future[Any]:
        return thread.submit(search, texts)

    return find


def _plain(request: Request) -> Program:
    completions: Sequence[Completion] = yield [request]
    return completions[0]


class _Documents:
    """In which form a request is given its documents."""

    def __init__(self, mode: Mode, source: KnowledgeSource | None, most: int) -> None:
        self.mode, self._source, self._most = mode, source, most

    def given(self, engine: BatchEngine, request: Request, found: Sequence[PassageLike]) -> Request:
        """The request with its documents; its passages are those that are read."""
        read = () if self.mode == "none" else tuple(found)[: self._most]
        request = replace(request, passages=read, reading=None)
        if self._source is not None:
            return replace(request, knowledge=self._source.of(read))
        if self.mode == "prompt" and read:
            new_tokens = request.sampling.max_new_tokens
            return replace(request, prompt=with_documents(request.prompt, read, engine, new_tokens))
        return request


def _answer(
    engine: BatchEngine,
    request: Request,
    prompt: Sequence[int],
    documents: _Documents,
    search: Callable[[list[str]], Future[Any]] | None,
) -> Program:
    found: Sequence[PassageLike] = request.passages
    if not found and search is not None and documents.mode != "none":
        results: Sequence[Sequence[PassageLike]] = yield search([request.question])
        found = results[0]
    asked = documents.given(engine, replace(request, prompt=prompt), found)
    completions: Sequence[Completion] = yield [asked]
    details = told(documents.mode, asked.passages, asked) | {"passages": [as_record(one) for one in asked.passages]}
    # Read before the first token of the answer, so they belong to the end of the prompt as the server knows it.
    read = Retrieved(position=len(request.prompt) - 1, passages=asked.passages)
    retrieved = (read,) if asked.passages else ()
    return replace(completions[0], retrieved=retrieved, details={"dynamic_prefix": details})
