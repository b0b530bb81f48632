"""Requests with documents as keys and values: checked, batched with others, and never continued from other caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Knowledge, KnowledgeShape, Request, Sampling
from retro.generate.scoring import Scored
from tests.generate.decoding.documents import knowledge, reading_model
from tests.generate.fake import FakeDecoder, LetterTokenizer, letters, says
from tests.generate.test_engine_model import NumberTokenizer

LLAMA: dict[str, Any] = {
    "retrieval": False,
    "activation": "swiglu",
    "normalization": "RMSNorm",
    "query_groups": 2,
}


@pytest.fixture(scope="module")
def engine() -> BatchEngine:
    return BatchEngine(CachedDecoder(reading_model(**LLAMA), 49), NumberTokenizer())


def read(engine: BatchEngine, vectors: int = 4, seed: int = 1) -> Knowledge:
    assert isinstance(engine.decoder, CachedDecoder)
    return knowledge(engine.decoder.model, vectors, seed)


def request(prompt: list[int], documents: Knowledge | None = None, **more: Any) -> Request:
    return Request(prompt=prompt, knowledge=documents, sampling=Sampling(max_new_tokens=5), top_logprobs=2, **more)


def ids(one: Completion) -> list[int]:
    return [token.id for token in one.tokens]


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (ids(one), one.ended) == (ids(other), other.ended)
        for mine, its in zip(one.tokens, other.tokens, strict=True):
            assert mine.logprob == pytest.approx(its.logprob, abs=1e-5)


def test_answers_of_a_batch_are_those_of_each_request_alone(engine: BatchEngine) -> None:
    one, other = read(engine), read(engine, 9, 2)
    asked = [
        request([3, 4, 5], one),
        request([3, 4, 5]),
        request([3, 4, 5], other),
        request([7], one),
        request([3, 4, 5], one),
    ]
    found = engine.generate(asked)
    assert_same(found, [engine.generate([each])[0] for each in asked])
    assert found[0] == found[4]
    assert len({tuple(one.tokens) for one in found[:3]}) == 3


def test_equal_prompts_are_computed_once_only_where_documents_are_equal_too() -> None:
    one, same, other = (Knowledge(torch.zeros(2, 2, 1, 3, 4), name) for name in ("one", "one", "other"))
    assert one == same != other
    decoder = FakeDecoder(says("a", 2))
    decoder.knowledge_shape = KnowledgeShape(layers=2, groups=1, width=4)
    engine = BatchEngine(decoder, LetterTokenizer())
    engine.generate([Request(prompt=letters("hi"), knowledge=each) for each in (one, other, None, same)])
    assert decoder.forks == [1]
    assert decoder.opened == [("", one), ("", other), ("", None)]


def test_a_prefix_continues_with_its_own_documents_alone(engine: BatchEngine) -> None:
    one, other = read(engine), read(engine, 2, 5)
    prefix = engine.prefill([3, 4], knowledge=one)
    assert prefix.knowledge is one
    found = engine.generate([request([5], one, prefix=prefix), request([], one, prefix=prefix)])
    assert_same(found, engine.generate([request([3, 4, 5], one), request([3, 4], one)]))
    for wrong, name in ((other, other.identity), (None, "no documents")):
        with pytest.raises(ConfigError, match=f"knowledge = '{name}'.*: needs {one.identity}, which its prefix"):
            engine.generate([request([5], wrong, prefix=prefix)])
    plain = engine.prefill([3])
    with pytest.raises(ConfigError, match="needs no documents, which its prefix was read with"):
        engine.generate([request([5], one, prefix=plain)])
    with pytest.raises(ConfigError, match="needs no documents, which its prefix was read with"):
        engine.score([Scored(prefix=plain, prompt=[], continuation=[5], knowledge=one)])
    engine.release(prefix)
    engine.release(plain)


def test_what_a_request_keeps_remembers_its_documents(engine: BatchEngine) -> None:
    one = read(engine)
    kept = engine.generate([request([3, 4], one, keep=True)])[0]
    assert kept.prefix is not None
    assert kept.prefix.knowledge is one
    found = engine.generate([request([8], one, prefix=kept.prefix)])
    assert_same(found, engine.generate([request([3, 4, *ids(kept), 8], one)]))
    engine.release(kept.prefix)


def test_continuations_are_scored_with_their_documents(engine: BatchEngine) -> None:
    one = read(engine)
    answered, plain = engine.generate([request([3, 4], one), request([3, 4])])
    assert ids(answered) != ids(plain)
    asked = [Scored(prompt=[3, 4], continuation=ids(answered), knowledge=each) for each in (one, None, one)]
    with_documents, without, again = engine.score(asked)
    assert with_documents.greedy
    assert with_documents.logprobs == pytest.approx([token.logprob for token in answered.tokens], abs=1e-5)
    assert not without.greedy
    assert again.logprobs == pytest.approx(with_documents.logprobs, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 2, 3, 4), (3, 2, 1, 3, 4), (3, 2, 2, 3, 8), (3, 2, 2, 0, 4), (3, 2, 2, 4)])
def test_documents_of_another_model_are_refused(engine: BatchEngine, shape: tuple[int, ...]) -> None:
    wrong = Knowledge(torch.zeros(shape), "document 7")
    need = r"needs shape \(3, 2, 2, n, 4\) with n of 1 or more"
    with pytest.raises(ConfigError, match=r"Request.knowledge = \(.*" + need):
        engine.submit(request([3], wrong))
    with pytest.raises(ConfigError, match=r"Scored.knowledge = \(.*" + need):
        engine.score([Scored(prompt=[3], continuation=[4], knowledge=wrong)])


def test_a_model_that_reads_no_documents_refuses_them() -> None:
    engine = BatchEngine(FakeDecoder(says("a", 1)), LetterTokenizer())
    with pytest.raises(ConfigError, match=r"Request\.knowledge = 'document 7': needs a model whose layers"):
        engine.submit(Request(prompt=[1], knowledge=Knowledge(torch.zeros(1, 2, 1, 1, 1), "document 7")))
