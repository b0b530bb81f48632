"""What is kept changes nothing: cached decoding gives the logits of the whole sequence computed again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Decoder, Extension, Neighbors
from retro.model.model import BuildOptions, RetroModel
from tests.generate.decoding.recompute import EventReference, Recompute, RecomputeDecoder
from tests.generate.decoding.scripts import Course, calls, neighbors, tokens
from tests.model.tiny import CHUNK, VOCABULARY, tiny_model, tiny_shape

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"query_groups": 2},
    "swiglu, rms norm": {"activation": "swiglu", "normalization": "RMSNorm"},
    "instructretro": {"zero_centered_norm": True, "rope_percent": 0.5},
    "biases, learned positions": {"bias": True, "positions": "learned", "encoder_rope": False, "cross_rope": False},
    "tied": {"tied_embeddings": True},
    "llama 3.1": {"normalization": "RMSNorm", "rope_scaling": 8.0, "rope_base": 500_000, "query_groups": 1},
    "half a gate": {"gate": 0.5},
    "learned gate": {"gate": "learned"},
    "late retrieval, one layer": {"first_cross_attention": 3},
    "one neighbor": {"neighbors": 1},
}


def open_gates(model: RetroModel) -> RetroModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("learned_gate"):
                parameter.fill_(0.7)
    return model


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def generate(decoder: Decoder, prompts: list[list[int]], given: list[Neighbors] | None, steps: int) -> Tensor:
    """[steps, prompts, V] logits of greedy answers; chunks end M tokens apart, one with the prompt's end."""
    rows = [decoder.open() for _ in prompts]
    lengths = [0 for _ in prompts]
    new, found = prompts, []
    for _ in range(steps):
        extensions = []
        for number, (row, added) in enumerate(zip(rows, new, strict=True)):
            ends = range(lengths[number], lengths[number] + len(added))
            on_grid = [at - lengths[number] for at in ends if (at + 1 - len(prompts[number])) % CHUNK == 0]
            chunks = {} if given is None else dict.fromkeys(on_grid, given[number])
            extensions.append(Extension(row, added, chunks))
            lengths[number] += len(added)
        found.append(decoder.extend(extensions))
        new = [[token] for token in found[-1].argmax(dim=-1).tolist()]
    for row in rows:
        decoder.close(row)
    return torch.stack(found)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_greedy_answers_are_those_of_the_full_recompute(settings: dict[str, Any]) -> None:
    model = open_gates(tiny_model(tiny_shape(**settings)))
    random = np.random.default_rng(5)
    prompts = [tokens(random, length) for length in (1, 3, 4, 9, 16)]
    given = [neighbors(random) for _ in prompts]
    expected = generate(RecomputeDecoder(model), prompts, given, 14)
    assert_equal(generate(CachedDecoder(model, 0), prompts, given, 14), expected)
    without = generate(CachedDecoder(model, 0), prompts, None, 14)
    assert not torch.allclose(without, expected, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_number_of_neighbors_and_of_rows(count: int, batch: int) -> None:
    model = tiny_model(tiny_shape(neighbors=2))
    random = np.random.default_rng(count + 10 * batch)
    prompts = [tokens(random, int(length)) for length in random.integers(1, 18, batch)]
    given = [neighbors(random, count) for _ in prompts]
    expected = generate(RecomputeDecoder(model), prompts, given, 12)
    assert_equal(generate(CachedDecoder(model, 0), prompts, given, 12), expected)


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_a_gpt_decodes_as_it_computes(positions: str) -> None:
    model = tiny_model(tiny_shape(retrieval=False, positions=positions, query_groups=2))
    random = np.random.default_rng(3)
    prompts = [tokens(random, length) for length in (2, 7, 5)]
    expected = generate(RecomputeDecoder(model), prompts, None, 20)
    assert_equal(generate(CachedDecoder(model, 0), prompts, None, 20), expected)


def follow(decoders: list[Decoder], seed: int, every: int, counts: list[int]) -> list[list[Tensor]]:
    """The logits of every decoder over one random course: four sequences, closed and opened again half way."""
    found: list[list[Tensor]] = [[] for _ in decoders]
    rows = [[decoder.open() for _ in range(4)] for decoder in decoders]
    random = np.random.default_rng(seed)
    for _ in range(2):
        firsts = random.integers(0, 7, 4)
        courses = [
            Course(random, place, first=int(first), every=every, counts=counts) for place, first in enumerate(firsts)
        ]
        for extensions in calls(random, courses, steps=14, longest=32):
            for which, decoder in enumerate(decoders):
                own = [Extension(rows[which][one.row], one.tokens, one.neighbors) for one in extensions]
                found[which] += decoder.extend_all(own)
        # The last slot's sequence moves to the slot that closes before it.
        for decoder, own_rows in zip(decoders, rows, strict=True):
            for place in (2, 0, 1):
                decoder.close(own_rows[place])
                own_rows[place] = decoder.open() if place else own_rows[place]
            own_rows[0] = decoder.open()
            decoder.close(own_rows[3])
            own_rows[3] = decoder.open()
    return found


def assert_same_course(model: RetroModel, truth: Recompute, seed: int, every: int, counts: list[int]) -> None:
    expected, found = follow([truth, CachedDecoder(model, 0)], seed, every, counts)
    assert len(found) > 20
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("seed", range(6))
def test_a_course_of_prompts_tokens_and_appended_spans_equals_the_full_recompute(seed: int) -> None:
    model = tiny_model(tiny_shape(query_groups=2))
    assert_same_course(model, RecomputeDecoder(model), seed, every=CHUNK, counts=[2])


@pytest.mark.parametrize("every", range(1, CHUNK + 3))
@pytest.mark.parametrize("settings", [{}, {"bias": True, "positions": "learned", "cross_rope": False}])
def test_chunks_that_end_anywhere_equal_a_plain_loop(every: int, settings: dict[str, Any]) -> None:
    model = tiny_model(tiny_shape(**settings))
    assert_same_course(model, EventReference(model), seed=every, every=every, counts=[1, 2, 3])


def test_both_truths_agree_where_both_hold() -> None:
    model = open_gates(tiny_model(tiny_shape(gate="learned")))
    recompute, reference = follow([RecomputeDecoder(model), EventReference(model)], 4, every=CHUNK, counts=[1, 2])
    for one, other in zip(recompute, reference, strict=True):
        assert_equal(one, other)


def test_a_shut_gate_is_the_gpt_whatever_it_is_given() -> None:
    retro, random = tiny_model(tiny_shape(gate=0.0)), np.random.default_rng(2)
    gpt = tiny_model(tiny_shape(retrieval=False))
    weights = retro.state_dict()
    gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()})
    prompts = [tokens(random, 6), tokens(random, 9)]
    given = [neighbors(random), neighbors(random)]
    expected = generate(CachedDecoder(gpt, 0), prompts, None, 8)
    assert torch.equal(generate(CachedDecoder(retro, 0), prompts, given, 8), expected)


def test_neighbors_are_seen_from_the_token_that_ends_their_chunk_for_m_tokens() -> None:
    model, random = tiny_model(tiny_shape()), np.random.default_rng(1)
    ids, one, other = tokens(random, 12), neighbors(random), neighbors(random)
    first, second = (
        decoder.extend_all([Extension(decoder.open(), ids, {3: given})])[0]
        for given in (one, other)
        for decoder in [CachedDecoder(model, 0)]
    )
    assert torch.equal(first[:3], second[:3])
    # Later tokens differ too: their self-attention reads the states of those that saw neighbors.
    assert [bool((first[at] != second[at]).any()) for at in range(3, 12)] == [True] * 9


def test_tokens_m_after_a_chunk_read_nothing() -> None:
    # One decoder layer alone: what a token reads shows in its own logits only.
    shape = tiny_shape(layers=1, first_cross_attention=1)
    model, random = tiny_model(shape), np.random.default_rng(1)
    ids = tokens(random, 12)
    plain, reads = CachedDecoder(model, 0), CachedDecoder(model, 0)
    without = plain.extend_all([Extension(plain.open(), ids)])[0]
    read = reads.extend_all([Extension(reads.open(), ids, {3: neighbors(random)})])[0]
    changed = [not torch.allclose(read[at], without[at], atol=1e-6) for at in range(12)]
    assert changed == [False] * 3 + [True] * CHUNK + [False] * 5


def test_rows_of_the_embedding_without_a_token_have_no_logit() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape(vocabulary_multiple=64)), 0)
    assert decoder.extend([Extension(decoder.open(), [5, 6])]).shape == (1, VOCABULARY)


def test_logits_come_in_the_order_of_the_extensions() -> None:
    model, random = tiny_model(tiny_shape()), np.random.default_rng(8)
    given = [tokens(random, length) for length in (1, 5, 1, 3)]
    decoder = CachedDecoder(model, 0)
    rows = [decoder.open() for _ in given]
    found = decoder.extend([Extension(rows[place], given[place]) for place in (3, 0, 1, 2)])
    alone = CachedDecoder(model, 0)
    expected = torch.cat([alone.extend([Extension(alone.open(), given[place])]) for place in (3, 0, 1, 2)])
    assert_equal(found, expected)


def test_bfloat16_follows_its_own_recompute() -> None:
    shape = tiny_shape(bias=True, gate=0.5)
    wide = tiny_model(shape)
    model = RetroModel(shape, BuildOptions(bfloat16=True))
    model.load_state_dict(wide.state_dict())
    random = np.random.default_rng(6)
    ids, given = tokens(random, 14), {7: neighbors(random), 11: neighbors(random)}
    truth, decoder = RecomputeDecoder(model), CachedDecoder(model, 0)
    expected = truth.extend_all([Extension(truth.open(), ids, given)])[0]
    row = decoder.open()
    found = torch.cat(
        [
            decoder.extend([Extension(row, [token], {0: given[at]} if at in given else {})])
            for at, token in enumerate(ids)
        ]
    )
    # A bfloat16 has three decimal digits, and logits are about 1 here.
    torch.testing.assert_close(found, expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([], r"at least one extension"),
        ([Extension(0, [1]), Extension(0, [2])], r"extended once"),
        ([Extension(7, [1])], r"no open sequence 7"),
        ([Extension(0, [])], r"given no token"),
        ([Extension(0, [1] * 33)], r"would have 33 tokens, the model has 32"),
        ([Extension(0, [VOCABULARY])], r"outside the vocabulary"),
        ([Extension(0, [-1])], r"outside the vocabulary"),
        ([Extension(0, [1], {1: neighbors(np.random.default_rng(0))})], r"at token 1 of 1"),
        ([Extension(0, [1], {0: Neighbors(np.zeros((2, 3), int), np.ones((2, 3), bool))})], r"needed \(K, 8\)"),
        ([Extension(0, [1], {0: Neighbors(np.zeros((0, 8), int), np.ones((0, 8), bool))})], r"needed \(K, 8\)"),
        ([Extension(0, [1], {0: Neighbors(np.zeros((2, 8), int), np.ones((1, 8), bool))})], r"mask of shape"),
        ([Extension(0, [1], {0: Neighbors(np.full((2, 8), 50), np.ones((2, 8), bool))})], r"neighbors have a token"),
    ],
)
def test_a_call_that_cannot_be_is_refused_and_leaves_no_trace(extensions: list[Extension], words: str) -> None:
    model = tiny_model(tiny_shape())
    decoder, other = CachedDecoder(model, 0), CachedDecoder(model, 0)
    for one in (decoder, other):
        assert one.open() == 0
    with pytest.raises(ValueError, match=words):
        decoder.extend(extensions)
    again = [Extension(0, [3, 4, 5])]
    assert torch.equal(decoder.extend(again), other.extend(again))


def test_a_gpt_refuses_neighbors() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape(retrieval=False)), 0)
    assert not decoder.reads_neighbors
    with pytest.raises(ValueError, match=r"no encoder"):
        decoder.extend([Extension(decoder.open(), [1], {0: neighbors(np.random.default_rng(0))})])


def test_a_closed_sequence_is_gone() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape()), 0)
    row = decoder.open()
    decoder.close(row)
    with pytest.raises(ValueError, match=rf"no open sequence {row}"):
        decoder.close(row)
