"""The recipe behind `retro serve`: a chat's last message is answered by its sub-questions, steps in the details."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.program import BeginRequest, Program
from retro.generate.request import Completion, Request
from retro.qa.question import Context, Question
from retro.recipes.base import Served
from retro.recipes.multi_hop.answer_config import AnswerConfig
from retro.recipes.multi_hop.codec import codec_of
from retro.recipes.multi_hop.dialogs import DialogTexts
from retro.recipes.multi_hop.models import EngineModel, as_program
from retro.recipes.multi_hop.opening import answering_config, answering_paths, opened_retriever, way_of
from retro.recipes.multi_hop.protocol import Answer
from retro.recipes.multi_hop.shared_searches import SharedSearches
from retro.run.config import RunConfig
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.tokenizer import conventions_of

KIND = "conversation"
"""The kind of question that a chat's last message is."""
_PASSAGES_GIVEN = 16
"""Most passages that a request may bring, where the retriever searches those of the question."""


def served(run: RunConfig, config: AnswerConfig, tuned: Path) -> Served:
    """What the server answers with.

    Raises:
        ConfigError: The model is not one of this toolkit's engine.
        RetroError: What is searched cannot be opened.
    """
    if config.model.kind != "engine":
        raise ConfigError("recipe.multi_hop.answer.model.kind", config.model.kind, "needs to be engine to be served")
    way = way_of(config, DialogTexts.load(config.texts))
    opened = ExitStack()
    atexit.register(opened.close)
    searches = SharedSearches(opened.enter_context(opened_retriever(config.retriever, run, ())))
    opened.callback(searches.close)
    given = _PASSAGES_GIVEN if config.retriever.kind == "contexts" else 0
    changes = {"contexts_in_prompt": given, "max_new_tokens": config.model.max_new_tokens}
    return Served(
        generate=answering_config(run, config).model_copy(update=changes),
        paths=answering_paths(run, config.model, tuned),
        kind=KIND,
        begin=program_for(way, searches),
    )


def program_for(way: Answer, searches: SharedSearches) -> BeginRequest:
    """The programs of a server; a plain continuation is continued."""

    def begin(engine: BatchEngine, request: Request) -> Program:
        if not request.question:
            return _plain(request)
        known = conventions_of(engine.tokenizer)
        codec = codec_of(engine.tokenizer, prompt_prefix(known, "auto", "generate.add_special_tokens"))
        # How long a turn is, and where it ends, is the conversation's.
        sampling = replace(request.sampling, stop=(), min_new_tokens=0)
        contexts = tuple(Context(one.title, one.text, one.document_id) for one in request.passages)
        question = Question(id="", question=request.question, answers=(), contexts=contexts)
        return as_program(way(question), EngineModel(engine, codec, {}, sampling), searches)

    return begin


def _plain(request: Request) -> Program:
    completions: Sequence[Completion] = yield [request]
    return completions[0]
