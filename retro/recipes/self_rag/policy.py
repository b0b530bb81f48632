"""Self-RAG's way of decoding, for the generate stage and for the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from retro.generate.engine import BatchEngine
from retro.generate.program import BeginRequest, Program, ProgramEngine
from retro.generate.request import Completion, Request
from retro.generate.runner import PreparedQuestion
from retro.qa.passages import Retrieve
from retro.recipes.self_rag.answering import Asked, require_long_enough
from retro.recipes.self_rag.config import DecodeConfig, Mode
from retro.recipes.self_rag.long_answers import long_answer
from retro.recipes.self_rag.short_answers import short_answer
from retro.recipes.self_rag.tokens import Vocabulary


def program_of(asked: Asked) -> Program:
    """The program that answers a question in the form that is wanted."""
    return short_answer(asked) if asked.config.form == "short" else long_answer(asked)


def program_for(config: DecodeConfig) -> BeginRequest:
    """The programs of a server: a question is answered in the first of the modes, with the passages at hand; a plain
    continuation is continued."""

    def begin(engine: BatchEngine, request: Request) -> Program:
        if not request.question:
            return _plain(request)
        asked = Asked(
            engine=engine,
            vocabulary=Vocabulary.of(engine.tokenizer),
            config=config,
            mode=config.modes[0],
            question=request.question,
            prompt=request.prompt,
            passages=request.passages,
            sampling=request.sampling,
            search=engine.retrieve,
        )
        # Now, while only this request can be refused for it.
        require_long_enough(asked)
        return program_of(asked)

    return begin


def _plain(request: Request) -> Program:
    completions: Sequence[Completion] = yield [request]
    return completions[0]


class SelfRagPolicy:
    """A `Policy` of `retro.generate.runner`: questions answered side by side, each by its program."""

    def __init__(self, config: DecodeConfig, mode: Mode, search: Retrieve | None = None) -> None:
        """Set up.

        Args:
            config: How questions are answered.
            mode: When passages are read.
            search: Finds passages anew for each segment; None: the engine's own search, where it has one.
        """
        self._config, self._mode, self._search = config, mode, search
        self.identity: Mapping[str, Any] = {"recipe": "self_rag", "mode": mode, "decode": config.identity}

    def generate(self, engine: BatchEngine, asked: Sequence[PreparedQuestion]) -> list[Completion]:
        """Answer some questions, in their order.

        Raises:
            ConfigError: The tokenizer lacks a reflection token, or the sequences are too short.
        """
        vocabulary = Vocabulary.of(engine.tokenizer)
        programs = [partial(program_of, self._asked(engine, vocabulary, one)) for one in asked]
        return ProgramEngine(engine, max_running=max(1, len(asked))).run(programs)

    def _asked(self, engine: BatchEngine, vocabulary: Vocabulary, one: PreparedQuestion) -> Asked:
        return Asked(
            engine=engine,
            vocabulary=vocabulary,
            config=self._config,
            mode=self._mode,
            question=one.question.question,
            prompt=one.request.prompt,
            passages=tuple(one.passages),
            sampling=one.request.sampling,
            search=self._search or engine.retrieve,
        )
