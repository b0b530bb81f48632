"""A fork continues as a sequence of its own that was given all the same tokens and neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Decoder, Extension
from retro.model.model import BuildOptions, RetroModel
from tests.generate.decoding.recompute import EventReference, Recompute, RecomputeDecoder
from tests.generate.decoding.scripts import fork_tree, neighbors, play, tokens
from tests.generate.decoding.test_decoder import assert_equal, open_gates
from tests.model.tiny import CHUNK, tiny_model, tiny_shape

ALWAYS, SOMETIMES, NEVER = 1, 5, 10**6
"""Tokens from which on forks share memory; a sequence here has up to 32."""


def assert_same_tree(
    truth: Recompute, decoders: Sequence[CachedDecoder], seed: int, every: int, counts: list[int]
) -> None:
    steps: dict[str, Any] = {"steps": 8, "longest": 32, "every": every, "counts": counts, "first": seed % CHUNK}
    assert_same(truth, decoders, seed, steps)


def assert_same(truth: Recompute, decoders: Sequence[CachedDecoder], seed: int, tree: dict[str, Any]) -> None:
    """One recompute, which takes long, is held against decoders that share memory at different lengths."""
    expected = played(truth, seed, tree)
    assert len(expected) > 10
    for decoder in decoders:
        for one, other in zip(played(decoder, seed, tree), expected, strict=True):
            assert_equal(one, other)


def played(decoder: Decoder, seed: int, tree: dict[str, Any]) -> list[Tensor]:
    return [logits for call in play(decoder, fork_tree(np.random.default_rng(seed), **tree)) for logits in call]


@pytest.mark.parametrize("seed", range(8))
def test_random_trees_of_forks_equal_the_full_recompute(seed: int) -> None:
    model = tiny_model(tiny_shape(query_groups=2))
    decoders = [CachedDecoder(model, 0, share_from=share_from) for share_from in (ALWAYS, SOMETIMES, NEVER)]
    assert_same_tree(EventReference(model), decoders, seed, every=1 + seed % 6, counts=[1, 2, 3])


@pytest.mark.parametrize(
    "settings",
    [
        {"retrieval": False, "positions": "learned", "query_groups": 1},
        {"retrieval": False, "query_groups": 2, "rope_percent": 0.5},
        {"bias": True, "positions": "learned", "cross_rope": False, "encoder_rope": False},
        {"gate": "learned", "activation": "swiglu", "normalization": "RMSNorm"},
        {"gate": 0.0},
    ],
)
def test_every_kind_of_model_forks(settings: dict[str, Any]) -> None:
    model = open_gates(tiny_model(tiny_shape(**settings)))
    decoders = [CachedDecoder(model, 0, share_from=share_from) for share_from in (ALWAYS, SOMETIMES)]
    if model.shape.model.retrieval:
        assert_same_tree(EventReference(model), decoders, 3, 3, [1, 2])
        return
    tree: dict[str, Any] = {"steps": 8, "longest": 32, "first": 99, "every": 1, "counts": [1]}
    for seed in range(3):
        assert_same(RecomputeDecoder(model), decoders, seed, tree)


@pytest.mark.parametrize("share_from", [ALWAYS, NEVER])
def test_forks_read_neighbors_of_their_own_conditioned_on_a_chunk_that_began_before_them(share_from: int) -> None:
    model, random = tiny_model(tiny_shape()), np.random.default_rng(4)
    start, ends = tokens(random, 6), [tokens(random, 2), tokens(random, 2)]
    before, own = neighbors(random), [neighbors(random), neighbors(random, 3)]
    decoder = CachedDecoder(model, 0, share_from=share_from)
    first = decoder.open()
    decoder.extend([Extension(first, start, {3: before})])
    rows = [first, *decoder.fork(first, 1)]
    # Positions 4 to 7 are a chunk: two of its states were read before the fork.
    found = decoder.extend([Extension(*one) for one in zip(rows, ends, ({1: own[0]}, {1: own[1]}), strict=True)])
    alone = CachedDecoder(model, 0)
    expected = [
        alone.extend([Extension(alone.open(), [*start, *end], {3: before, 7: mine})])[0]
        for end, mine in zip(ends, own, strict=True)
    ]
    assert_equal(found, torch.stack(expected))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def held(decoder: CachedDecoder) -> int:
    """Tokens whose keys and values are shared."""
    return sum(one.length for one in decoder._rows.segments)


def test_a_shared_prefix_stands_in_memory_once_until_its_last_sequence_ends() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape(sequence_length=512)), 0, share_from=64)
    row, random = decoder.open(), np.random.default_rng(2)
    decoder.extend([Extension(row, tokens(random, 256))])
    alone = decoder.cache_bytes
    rows = [row, *decoder.fork(row, 15)]
    decoder.extend([Extension(one, tokens(random, 2)) for one in rows])
    assert held(decoder) == 256
    # Sixteen sequences of 256 tokens would be sixteen times as much; 16 slots of 64 and the prefix are five times.
    assert decoder.cache_bytes < 6 * alone
    empty = decoder.cache_bytes
    for one in rows[:-1]:
        decoder.close(one)
    assert held(decoder) == 256
    (again,) = decoder.fork(rows[-1], 1)
    decoder.close(rows[-1])
    assert held(decoder) == 256
    decoder.close(again)
    assert (held(decoder), len(decoder._rows)) == (0, 0)
    # 256 tokens, keys and values of 4 bytes, in each layer.
    model = decoder.model.shape.model
    assert empty - decoder.cache_bytes == 256 * 2 * 4 * model.layers * model.query_groups * model.head_width


def test_short_forks_are_copied_behind_the_segment_that_they_share() -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape()), 0, share_from=8)
    row, random = decoder.open(), np.random.default_rng(2)
    decoder.extend([Extension(row, tokens(random, 8))])
    (second,) = decoder.fork(row, 1)
    decoder.extend([Extension(second, tokens(random, 7))])
    (third,) = decoder.fork(second, 1)
    assert held(decoder) == 8
    decoder.extend([Extension(third, tokens(random, 1))])
    decoder.fork(third, 1)
    assert held(decoder) == 16


def test_a_sequence_without_tokens_forks_too() -> None:
    decoder, random = CachedDecoder(tiny_model(tiny_shape()), 0), np.random.default_rng(2)
    ids = tokens(random, 5)
    (row,) = decoder.fork(decoder.open(), 1)
    alone = CachedDecoder(decoder.model, 0)
    assert torch.equal(decoder.extend([Extension(row, ids)]), alone.extend([Extension(alone.open(), ids)]))


def test_plain_rows_beside_forks_give_what_they_give_alone() -> None:
    model, random = tiny_model(tiny_shape()), np.random.default_rng(7)
    given = [tokens(random, 9), tokens(random, 4)]
    nexts = [tokens(random, 1)[0] for _ in range(4)]

    def logits(*, forked: bool) -> Tensor:
        decoder = CachedDecoder(model, 0, share_from=ALWAYS)
        rows = [decoder.open(), decoder.open()]
        decoder.extend([Extension(row, ids) for row, ids in zip(rows, given, strict=True)])
        rows += decoder.fork(rows[0], 2) if forked else [decoder.open(), decoder.open()]
        if not forked:
            decoder.extend([Extension(row, given[0]) for row in rows[2:]])
        return decoder.extend([Extension(row, [token]) for row, token in zip(rows, nexts, strict=True)])

    assert_equal(logits(forked=True), logits(forked=False))


def test_bfloat16_forks_follow_a_sequence_of_their_own() -> None:
    shape = tiny_shape(bias=True, gate=0.5)
    model = RetroModel(shape, BuildOptions(bfloat16=True))
    model.load_state_dict(tiny_model(shape).state_dict())
    random = np.random.default_rng(6)
    ids, given = tokens(random, 14), {7: neighbors(random)}
    decoder, alone = CachedDecoder(model, 0, share_from=ALWAYS), CachedDecoder(model, 0)
    row, whole = decoder.open(), alone.open()
    decoder.extend([Extension(row, ids[:10], given)])
    alone.extend([Extension(whole, ids[:10], given)])
    (fork,) = decoder.fork(row, 1)
    for token in ids[10:]:
        found, expected = decoder.extend([Extension(fork, [token])]), alone.extend([Extension(whole, [token])])
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("row", "count", "words"), [(7, 1, r"no open sequence 7"), (0, 0, r"sequence 0 is to be forked 0 times")]
)
def test_a_fork_that_cannot_be_is_refused(row: int, count: int, words: str) -> None:
    decoder = CachedDecoder(tiny_model(tiny_shape()), 0)
    decoder.open()
    with pytest.raises(ValueError, match=words):
        decoder.fork(row, count)
