"""Samples packed in one sequence are computed as if each was alone: logits, gradients, and to whom they are blind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from retro.model.masks import causal_mask, pack_masks, positions, unpack_masks
from retro.model.reference import ReferenceRetro
from tests.model.tiny import CHUNK, VOCABULARY, tiny_inputs, tiny_model, tiny_shape

# First token of each sample, and the place after its last one. The first two, and the second and third, share a chunk
# of four; the third fills its last, so that its own last token reads that chunk's neighbors and no other does; the
# fourth ends in a chunk that is not whole.
SAMPLES = ((3, 9), (10, 14), (14, 28), (30, 34))
LENGTH = 34

VARIANTS: dict[str, dict[str, Any]] = {
    "rope": {},
    "learned positions, gate": {"positions": "learned", "bias": True, "gate": 0.5, "encoder_rope": False},
    "no positions across": {"cross_rope": False, "query_groups": 2, "normalization": "RMSNorm"},
    "gpt": {"retrieval": False},
    "gpt, learned positions": {"retrieval": False, "positions": "learned", "tied_embeddings": True},
}


@dataclass(frozen=True)
class Packed:
    """One sequence of all samples, and the labels that count."""

    tokens_BS: Tensor
    neighbors_BLKR: Tensor
    mask_BLKR: Tensor
    segments_BS: Tensor
    labels_BS: Tensor

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of a model, without segments."""
        return self.tokens_BS, self.neighbors_BLKR, self.mask_BLKR

    def logits(self, model: Any) -> Tensor:
        """[real tokens, V] of a model, or of the reference."""
        found: Tensor = model(self.tokens_BS, self.neighbors_BLKR, self.mask_BLKR, segments_BS=self.segments_BS)
        return found[self.segments_BS > 0]

    def alone(self, model: Any) -> Tensor:
        """[real tokens, V] of every sample by itself, from the chunk border before it on."""
        pieces = []
        for number, (first, stop) in enumerate(SAMPLES, start=1):
            border = first // CHUNK * CHUNK
            chunks = slice(border // CHUNK, stop // CHUNK)
            real = self.segments_BS[:, border:stop] == number
            logits = model(
                self.tokens_BS[:, border:stop], self.neighbors_BLKR[:, chunks], self.mask_BLKR[:, chunks], real
            )
            pieces.append(logits[real])
        return torch.cat(pieces)


def packed() -> Packed:
    inputs = tiny_inputs(LENGTH, batch=1)
    segments = torch.zeros(1, LENGTH, dtype=torch.long)
    for number, (first, stop) in enumerate(SAMPLES, start=1):
        segments[0, first:stop] = number
    labels = torch.randint(0, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    return Packed(*inputs.args(), segments, labels)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_those_of_each_sample_alone_and_of_the_reference(settings: dict[str, Any]) -> None:
    shape, batch = tiny_shape(**settings), packed()
    model = tiny_model(shape).eval()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    found = batch.logits(model)
    torch.testing.assert_close(found, batch.alone(model), rtol=1e-5, atol=1e-5)
    reference = ReferenceRetro(shape, weights)
    without = Packed(**(vars(batch) | {"neighbors_BLKR": None, "mask_BLKR": None}))
    truth = (batch if shape.model.retrieval else without).logits(reference)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_gradients_equal_those_of_each_sample_alone(settings: dict[str, Any]) -> None:
    batch, model = packed(), tiny_model(tiny_shape(**settings))
    gradients = []
    for logits in (batch.logits, batch.alone):
        model.zero_grad()
        functional.cross_entropy(logits(model), batch.labels_BS[batch.segments_BS > 0]).backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, found in gradients[0].items():
        torch.testing.assert_close(found, gradients[1][name], rtol=1e-5, atol=1e-5, msg=name)
    if model.shape.model.retrieval:
        assert any(found.abs().max() > 0 for name, found in gradients[0].items() if ".encoder." in name)


@pytest.mark.parametrize("sample", [1, 2, 3])
def test_what_a_sample_reads_changes_no_bit_of_another(sample: int) -> None:
    model, batch = tiny_model(tiny_shape()).eval(), packed()
    first, stop = SAMPLES[sample - 1]
    mine = batch.segments_BS == sample
    tokens = torch.where(mine, (batch.tokens_BS + 1) % VOCABULARY, batch.tokens_BS)
    neighbors = batch.neighbors_BLKR.clone()
    own = slice(first // CHUNK, stop // CHUNK)
    neighbors[:, own] = (neighbors[:, own] + 1) % VOCABULARY
    before = model(*batch.inputs(), segments_BS=batch.segments_BS)
    after = model(tokens, neighbors, batch.mask_BLKR, segments_BS=batch.segments_BS)
    others = (batch.segments_BS > 0) & ~mine
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[mine], after[mine])


def test_one_segment_without_padding_is_the_plain_sequence() -> None:
    model, inputs = tiny_model(tiny_shape()).eval(), tiny_inputs(18)
    ones = torch.ones_like(inputs.tokens_BS)
    torch.testing.assert_close(model(*inputs.args(), segments_BS=ones), model(*inputs.args()), rtol=1e-5, atol=1e-5)


def test_positions_begin_anew_with_each_sample() -> None:
    segments = torch.tensor([[0, 1, 1, 0, 0, 2, 2, 2], [1, 1, 2, 2, 2, 0, 3, 0]])
    found = positions(torch.zeros_like(segments), None, segments)
    assert found[segments > 0].tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 1, 2, 0]


def test_masks_of_two_samples_worked_by_hand() -> None:
    # M = 2, R = 1: one pad, 11 12 13 14 of the first, so that it shares a chunk with 21 22 and 23 of the second.
    segments = torch.tensor([[0, 1, 1, 1, 1, 2, 2, 2]])
    mask = causal_mask(None, segments)
    assert mask is not None
    assert mask[0, 0].int().tolist()[3] == [0, 1, 1, 1, 0, 0, 0, 0]
    assert mask[0, 0].int().tolist()[6] == [0, 0, 0, 0, 0, 1, 1, 0]
    real = torch.ones(1, 4, 1, 1, dtype=torch.bool)
    neighbors, chunks, readers = unpack_masks(pack_masks(real, None, 2, segments), 2, 1)
    assert neighbors.equal(real)
    assert readers is not None
    # The third chunk is 14 21: its neighbors belong to the second sample, and know nothing of 14.
    assert chunks[0].int().tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]
    # Of each chunk its last token, and the one after it; the last has none.
    assert readers[0].int().tolist() == [[1, 1], [1, 1], [1, 1], [1, 0]]
    _, _, readers = unpack_masks(pack_masks(real, None, 2, torch.tensor([[1, 1, 2, 2, 0, 3, 3, 0]])), 2, 1)
    assert readers is not None
    assert readers[0].int().tolist() == [[1, 0], [1, 0], [1, 1], [0, 0]]


def test_a_token_mask_beside_segments_is_refused() -> None:
    model, batch = tiny_model(tiny_shape()).eval(), packed()
    with pytest.raises(ValueError, match="would say it twice"):
        model(batch.tokens_BS, token_mask_BS=batch.segments_BS > 0, segments_BS=batch.segments_BS)
