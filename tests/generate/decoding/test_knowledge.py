"""Documents as keys and values change what rows with them compute, exactly as a full pass does, and no other row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retro.generate.decoding import knowledge as reading
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.decoding.knowledge import KnowledgeCalls, knowledge_groups
from retro.generate.request import Decoder, Extension, Knowledge
from retro.model.model import RetroModel
from tests.generate.decoding.documents import KnowledgeReference, knowledge, reading_model, training_logits
from tests.generate.decoding.scripts import fork_tree, neighbors, play, tokens
from tests.generate.decoding.test_decoder import assert_equal
from tests.model.tiny import CHUNK, tiny_model, tiny_shape

GPT: dict[str, Any] = {"retrieval": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {**GPT, "activation": "swiglu", "normalization": "RMSNorm", "query_groups": 2},
    "gpt, learned positions, biases": {**GPT, "bias": True, "positions": "learned"},
    "half of the head rotates": {**GPT, "rope_percent": 0.5, "query_groups": 1},
    "queries normed": {**GPT, "qk_norm": True, "normalization": "RMSNorm"},
    "some layers": {**GPT, "layers_read": (0, 2)},
    "retro": {"query_groups": 2},
}


def model_of(settings: dict[str, Any]) -> RetroModel:
    layers = settings.get("layers_read")
    return reading_model(layers, **{name: value for name, value in settings.items() if name != "layers_read"})


def greedy(decoder: Decoder, prompts: list[list[int]], documents: list[Knowledge | None], steps: int) -> Tensor:
    """[steps, prompts, V] logits, token by token."""
    rows = [decoder.open("", one) for one in documents]
    new, found = prompts, []
    for _ in range(steps):
        found.append(decoder.extend([Extension(row, added) for row, added in zip(rows, new, strict=True)]))
        new = [[token] for token in found[-1].argmax(dim=-1).tolist()]
    for row in rows:
        decoder.close(row)
    return torch.stack(found)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_token_by_token_equals_the_full_recompute_whatever_a_row_reads(settings: dict[str, Any]) -> None:
    model, random = model_of(settings), np.random.default_rng(1)
    prompts = [tokens(random, length) for length in (5, 1, 9, 3, 5)]
    one, other = knowledge(model, 7, 1), knowledge(model, 3, 2)
    documents = [one, other, None, one, knowledge(model, 1, 3)]
    expected = greedy(KnowledgeReference(model), prompts, documents, 8)
    assert_equal(greedy(CachedDecoder(model, 0), prompts, documents, 8), expected)
    without = greedy(CachedDecoder(model, 0), prompts, [None] * 5, 8)
    assert not torch.allclose(without[:, 0], expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("settings", list(VARIANTS.values())[:5], ids=list(VARIANTS)[:5])
def test_decoding_equals_the_forward_pass_that_is_trained(settings: dict[str, Any]) -> None:
    model, ids = model_of(settings), tokens(np.random.default_rng(2), 12)
    expected_SV = training_logits(model, ids, 5, seed=4)
    decoder = CachedDecoder(model, 0)
    row = decoder.open("", knowledge(model, 5, seed=4))
    (prompt_TV,) = decoder.extend_all([Extension(row, ids[:7])])
    steps = [decoder.extend([Extension(row, [token])])[0] for token in ids[7:]]
    assert_equal(torch.stack([*prompt_TV, *steps]), expected_SV)


def test_a_row_in_a_batch_is_what_it_is_alone() -> None:
    model, random = model_of(VARIANTS["llama"]), np.random.default_rng(3)
    prompts = [tokens(random, length) for length in (4, 8, 2, 4)]
    documents = [knowledge(model, length, length) for length in (2, 9, 5)]
    together = greedy(CachedDecoder(model, 0), prompts, [*documents, None], 6)
    for place, one in enumerate([*documents, None]):
        alone = greedy(CachedDecoder(model, 0), [prompts[place]], [one], 6)
        assert_equal(together[:, place : place + 1], alone)


def test_rows_without_documents_are_untouched_to_the_bit() -> None:
    settings = VARIANTS["llama"]
    model, random = model_of(settings), np.random.default_rng(4)
    prompts = [tokens(random, 6), tokens(random, 6)]
    beside = greedy(CachedDecoder(model, 0), prompts, [knowledge(model, 4), None], 6)[:, 1]
    # Those of a model that has nothing to read documents with, in a batch of the same sizes.
    plain = greedy(CachedDecoder(tiny_model(tiny_shape(**settings)), 0), prompts, [None, None], 6)
    forced = greedy(CachedDecoder(model, 0), prompts, [None, None], 6)
    assert torch.equal(plain, forced)
    assert torch.equal(beside, plain[:, 1])


def test_closed_gates_read_nothing_to_the_bit() -> None:
    model = reading_model(gate=0.0, **VARIANTS["llama"])
    ids = [tokens(np.random.default_rng(5), 6)]
    closed = greedy(CachedDecoder(model, 0), ids, [knowledge(model, 4)], 6)
    assert torch.equal(closed, greedy(CachedDecoder(model, 0), ids, [None], 6))


@pytest.mark.parametrize("share_from", [1, 10**6])
@pytest.mark.parametrize("settings", [VARIANTS["llama"], VARIANTS["retro"]])
def test_forks_keep_their_documents(settings: dict[str, Any], share_from: int) -> None:
    model = model_of(settings)
    truth, decoder = KnowledgeReference(model), CachedDecoder(model, 0, share_from=share_from)
    read, tree = knowledge(model, 5), dict[str, Any](steps=8, longest=32, every=3, counts=[1, 2], first=3)
    if not model.shape.model.retrieval:
        tree |= {"first": 99}
    found = []
    for one in (truth, decoder):
        begin = one.open

        def opened(adapter: str = "", knowledge: Knowledge | None = read, begin: Any = begin) -> int:
            return int(begin(adapter, knowledge))

        one.open = opened  # type: ignore[method-assign]
        found.append([logits for call in play(one, fork_tree(np.random.default_rng(7), **tree)) for logits in call])
    assert len(found[0]) > 10
    for expected, logits in zip(*found, strict=True):
        assert_equal(logits, expected)


def test_forks_and_rows_with_other_documents_are_read_in_one_call() -> None:
    model, random = model_of(VARIANTS["llama"]), np.random.default_rng(8)
    one, other = knowledge(model, 6, 1), knowledge(model, 2, 2)
    found = []
    for decoder in (KnowledgeReference(model), CachedDecoder(model, 0, share_from=1)):
        random = np.random.default_rng(8)
        first, plain = decoder.open("", one), decoder.open()
        decoder.extend([Extension(first, tokens(random, 5)), Extension(plain, tokens(random, 3))])
        rows = [*decoder.fork(first, 2), plain, decoder.open("", other)]
        calls = [[Extension(row, tokens(random, count)) for row, count in zip(rows, (1, 4, 1, 3), strict=True)]]
        decoder.close(first)
        calls += [[Extension(row, tokens(random, 1)) for row in reversed(rows)]]
        found.append(torch.cat([decoder.extend(call) for call in calls]))
    assert_equal(found[1], found[0])


def test_documents_and_neighbors_are_read_together() -> None:
    model, random = model_of(VARIANTS["retro"]), np.random.default_rng(9)
    given, ids = neighbors(random), tokens(random, 3 * CHUNK)
    logits = []
    for decoder in (KnowledgeReference(model), CachedDecoder(model, 0)):
        row = decoder.open("", knowledge(model, 4))
        logits.append(decoder.extend_all([Extension(row, ids, {CHUNK - 1: given})])[0])
    assert_equal(logits[1], logits[0])


def test_documents_are_in_memory_once_for_all_rows_that_read_them() -> None:
    model = model_of(VARIANTS["llama"])
    read, decoder = knowledge(model, 4), CachedDecoder(model, 0)
    before = decoder.cache_bytes
    rows = [decoder.open("", read) for _ in range(3)]
    decoder.extend([Extension(row, [1, 2]) for row in rows])
    decoder.close(rows[0])
    with_documents = decoder.cache_bytes
    plain = CachedDecoder(model, 0)
    rows = [plain.open() for _ in range(3)]
    plain.extend([Extension(row, [1, 2]) for row in rows])
    plain.close(rows[0])
    assert before == 0
    assert with_documents == plain.cache_bytes


@pytest.mark.parametrize("copied", [0, 2**27])
def test_rows_with_documents_of_their_own_are_read_side_by_side_or_one_by_one(
    monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    monkeypatch.setattr(reading, "_COPIED_BYTES", copied)
    model, random = model_of(VARIANTS["llama"]), np.random.default_rng(10)
    prompts = [tokens(random, 3) for _ in range(5)]
    documents = [knowledge(model, vectors, vectors) for vectors in (7, 1, 4)]
    given = [documents[0], None, documents[1], documents[2], documents[0]]
    expected = greedy(KnowledgeReference(model), prompts, given, 6)
    assert_equal(greedy(CachedDecoder(model, 0), prompts, given, 6), expected)


def test_copies_of_documents_serve_until_the_rows_change() -> None:
    model = model_of(VARIANTS["llama"])
    one, other, third = (knowledge(model, vectors, vectors) for vectors in (7, 2, 3))
    calls = KnowledgeCalls()
    groups = knowledge_groups([(one, 0, 1), (None, 1, 1), (other, 2, 1), (third, 3, 4)])
    [prompt, both] = calls.plan(groups)
    assert prompt.tokens == slice(3, 7)
    assert prompt.keys_values.data_ptr() == third.keys_values.data_ptr()
    assert isinstance(both.tokens, Tensor)
    assert both.tokens.tolist() == [0, 2]
    assert both.real_Bn.tolist() == [[True] * 7, [True] * 2 + [False] * 5]
    assert torch.equal(both.keys_values[:, :, 1, :, :2], other.keys_values)
    assert not both.keys_values[:, :, 1, :, 2:].any()
    # 3 layers, keys and values, 2 rows, 2 groups, 7 vectors, 4 numbers of 4 bytes.
    assert calls.bytes == 3 * 2 * 2 * 2 * 7 * 4 * 4
    [_, again] = calls.plan(groups)
    assert again.keys_values is both.keys_values
    [changed] = calls.plan(knowledge_groups([(other, 0, 1), (one, 1, 1)]))
    assert changed.tokens == slice(0, 2)
    assert changed.real_Bn.tolist() == [[True] * 2 + [False] * 5, [True] * 7]
    [alone] = calls.plan(knowledge_groups([(one, 0, 1)]))
    assert alone.keys_values.data_ptr() == one.keys_values.data_ptr()
    assert calls.bytes == 0
    assert calls.plan(()) == []


def test_a_model_without_layers_for_documents_refuses_them() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape(**GPT)), 0)
    assert decoder.knowledge_shape is None
    with pytest.raises(ValueError, match="the model reads no documents"):
        decoder.open("", knowledge(reading_model(**GPT), 2))


def test_the_shape_of_documents_counts_the_layers_that_read() -> None:
    assert CachedDecoder(model_of(VARIANTS["some layers"]), 0).knowledge_shape == (2, 4, 4)
    assert CachedDecoder(model_of(VARIANTS["llama"]), 0).knowledge_shape == (3, 2, 4)
