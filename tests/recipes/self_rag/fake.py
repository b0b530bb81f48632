"""A decoder whose probabilities are written down by hand, over letters and reflection tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retro.generate.engine import BatchEngine
from retro.generate.program import ProgramEngine
from retro.generate.request import ChosenToken, Completion, Sampling, TokenProbability
from retro.qa.question import Context
from retro.recipes.self_rag.answering import Asked
from retro.recipes.self_rag.config import DecodeConfig, Mode
from retro.recipes.self_rag.policy import program_of
from retro.recipes.self_rag.tokens import TOKENS, Vocabulary
from tests.generate.fake import END, LETTERS, FakeDecoder, LetterTokenizer, Row

FIRST = len(LETTERS)
LEAST = 1e-9


class ReflectionTokenizer(LetterTokenizer):
    """Letters, and a token for each of the fifteen."""

    added = TOKENS

    def token_id(self, token: str) -> int | None:
        return FIRST + TOKENS.index(token) if token in TOKENS else None

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([one for one in ids if one < FIRST])


def spelled(ids: Sequence[int]) -> str:
    """Tokens as one reads them."""
    return "".join(LETTERS[one] if one < FIRST else TOKENS[one - FIRST] for one in ids)


Says = str | Mapping[str, float]
"""What comes next: one token, or tokens with their probabilities."""


class ScriptedDecoder(FakeDecoder):
    """Goes by rules: the first whose pattern the sequence so far ends with says what comes next."""

    vocabulary = FIRST + len(TOKENS)

    def __init__(self, rules: Mapping[str, Says], *, sequence_length: int = 200) -> None:
        super().__init__(self._said, sequence_length=sequence_length, reads_neighbors=False)
        self._rules = [(re.compile(f"(?:{pattern})$", re.DOTALL), says) for pattern, says in rules.items()]

    def _said(self, row: Row) -> Tensor:
        text = spelled(row.ids)
        says = next((says for pattern, says in self._rules if pattern.search(text)), "#")
        chances = {says: 1.0} if isinstance(says, str) else says
        logits_V = torch.full((self.vocabulary,), math.log(LEAST))
        for token, chance in chances.items():
            logits_V[FIRST + TOKENS.index(token) if token in TOKENS else LETTERS.index(token)] = math.log(
                max(chance, LEAST)
            )
        return logits_V


def step(chosen: str, chances: Mapping[str, float]) -> ChosenToken:
    """A step of an answer, by hand."""
    named = tuple(
        TokenProbability(id=FIRST + place, logprob=math.log(chances.get(name, LEAST)))
        for place, name in enumerate(TOKENS)
    )
    id_ = FIRST + TOKENS.index(chosen) if chosen in TOKENS else LETTERS.index(chosen)
    return ChosenToken(id=id_, logprob=math.log(chances.get(chosen, 1.0)), named=named)


VOCABULARY = Vocabulary.of(ReflectionTokenizer())


def passage(text: str, title: str = "") -> Context:
    return Context(title, text, document_id=f"d-{text}")


def answer(
    decoder: FakeDecoder,
    passages: Sequence[Context] = (),
    mode: Mode = "adaptive_retrieval",
    prompt: str = "q ",
    max_running: int = 16,
    search: Any = None,
    **settings: Any,
) -> Completion:
    """One question answered; afterwards nothing may be open."""
    [found] = answers(decoder, [(prompt, passages)], mode, max_running, search, **settings)
    return found


def answers(
    decoder: FakeDecoder,
    questions: Sequence[tuple[str, Sequence[Context]]],
    mode: Mode = "adaptive_retrieval",
    max_running: int = 16,
    search: Any = None,
    **settings: Any,
) -> list[Completion]:
    """Questions answered side by side."""
    engine = BatchEngine(decoder, ReflectionTokenizer(), search, max_running)
    config = DecodeConfig(**{"max_new_tokens": 30, "ndocs": 3} | settings)
    one = Asked(
        engine=engine, vocabulary=VOCABULARY, config=config, mode=mode, question="", prompt=(), passages=(),
        sampling=Sampling(max_new_tokens=config.max_new_tokens), search=search,
    )  # fmt: skip
    asked = [
        replace(one, question=prompt, prompt=ReflectionTokenizer().encode(prompt), passages=tuple(passages))
        for prompt, passages in questions
    ]
    found = ProgramEngine(engine, max_running=len(asked)).run([lambda each=each: program_of(each) for each in asked])  # type: ignore[misc]
    assert decoder.rows == {}, "an answer leaves nothing open"
    assert END not in [token.id for one in found for token in one.tokens]
    return found


def told(completion: Completion) -> dict[str, Any]:
    """What the answer says of itself."""
    return dict(completion.details["self_rag"])
