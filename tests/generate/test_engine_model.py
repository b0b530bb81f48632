"""The engine around a model gives the tokens of a plain loop over the reference, whoever else is answered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.request import GivenPassages, Request, Sampling
from retro.generate.scoring import Scored
from retro.model.reference import ReferenceRetro
from retro.qa.question import Context
from tests.model.tiny import CHUNK, VOCABULARY, tiny_model, tiny_shape

END = 0
R = 2 * CHUNK


class NumberTokenizer:
    """A text is its token ids, written out."""

    eod = END

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {one}" for one in ids)

    def decode_batch(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(row) for row in ids]


def by_hand(
    reference: ReferenceRetro, prompt: list[int], passages: list[list[int]], steps: int
) -> tuple[list[int], list[float]]:
    """One question alone, left-padded to whole chunks, one token at a time, with each token's log-probability."""
    pad = -len(prompt) % CHUNK
    tokens, real = [END] * pad + prompt, [False] * pad + [True] * len(prompt)
    neighbors_KR = torch.zeros(len(passages), R, dtype=torch.long)
    mask_KR = torch.zeros(len(passages), R, dtype=torch.bool)
    for row, passage in enumerate(passages):
        neighbors_KR[row, : len(passage)] = torch.tensor(passage)
        mask_KR[row, : len(passage)] = True
    answer: list[int] = []
    logprobs: list[float] = []
    for _ in range(steps):
        chunks = len(tokens) // CHUNK
        shape = (1, chunks, len(passages), R)
        logits = reference(
            torch.tensor([tokens]), neighbors_KR.expand(shape), mask_KR.expand(shape), torch.tensor([real])
        )[0, -1]
        token = int(logits.argmax())
        if token == END:
            break
        answer.append(token)
        logprobs.append(float(logits.log_softmax(dim=-1)[token]))
        tokens, real = [*tokens, token], [*real, True]
    return answer, logprobs


@pytest.fixture(scope="module")
def setting() -> tuple[CachedDecoder, ReferenceRetro]:
    shape = tiny_shape()
    model = tiny_model(shape)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return CachedDecoder(model, END), ReferenceRetro(shape, weights)


def questions(lengths: list[int]) -> list[tuple[list[int], list[list[int]]]]:
    random = np.random.default_rng(3)
    return [
        (
            random.integers(1, VOCABULARY, size=length).tolist(),
            [random.integers(1, VOCABULARY, size=size).tolist() for size in random.integers(2, R + 1, size=2)],
        )
        for length in lengths
    ]


def request_of(prompt: list[int], passages: list[list[int]], steps: int) -> Request:
    found = tuple(Context("", " ".join(map(str, passage))) for passage in passages)
    return Request(prompt=prompt, reading=GivenPassages(passages=found), sampling=Sampling(max_new_tokens=steps))


def test_a_batch_of_unequal_prompts_gives_the_tokens_of_each_alone(
    setting: tuple[CachedDecoder, ReferenceRetro],
) -> None:
    decoder, reference = setting
    asked = questions([3, 8, 13, 5, 1])
    engine = BatchEngine(decoder, NumberTokenizer(), max_running=3)
    found = engine.generate([request_of(prompt, passages, 6) for prompt, passages in asked])
    expected = [by_hand(reference, prompt, passages, 6) for prompt, passages in asked]
    assert [[token.id for token in one.tokens] for one in found] == [ids for ids, _ in expected]
    for one, (_, logprobs) in zip(found, expected, strict=True):
        assert [token.logprob for token in one.tokens] == pytest.approx(logprobs, abs=1e-4)
    assert any(len(ids) == 6 for ids, _ in expected)


def test_the_models_own_greedy_answer_scores_what_it_was_chosen_with(
    setting: tuple[CachedDecoder, ReferenceRetro],
) -> None:
    decoder, _ = setting
    engine = BatchEngine(decoder, NumberTokenizer())
    requests = [request_of(prompt, passages, 6) for prompt, passages in questions([3, 8, 13])]
    answers = engine.generate(requests)
    asked = [
        Scored(prompt=request.prompt, continuation=[token.id for token in one.tokens], reading=request.reading)
        for request, one in zip(requests, answers, strict=True)
    ]
    for score, one in zip(engine.score(asked), answers, strict=True):
        assert score.greedy
        assert score.logprobs == pytest.approx([token.logprob for token in one.tokens], abs=1e-5)


def test_passages_change_the_answer(setting: tuple[CachedDecoder, ReferenceRetro]) -> None:
    engine = BatchEngine(setting[0], NumberTokenizer())
    ((prompt, passages),) = questions([8])
    read, other, closed = engine.generate(
        [
            request_of(prompt, passages, 6),
            request_of(prompt, passages[::-1], 6),
            Request(prompt=prompt, sampling=Sampling(max_new_tokens=6)),
        ]
    )
    assert read.text != closed.text
    # Neighbors have no order.
    assert read.text == other.text
