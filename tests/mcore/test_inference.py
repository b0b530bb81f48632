"""Without what only training needs, linear layers compute the same, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retro.mcore.layers import for_inference
from retro.mcore.lora import attach
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": True, "positions": "learned", "encoder_rope": False, "cross_rope": False},
        {"tied_embeddings": True, "activation": "swiglu", "normalization": "RMSNorm"},
    ],
)
def test_logits_are_the_same_to_the_bit(settings: dict[str, Any]) -> None:
    model = tiny_model(tiny_shape(**settings)).eval()
    inputs = tiny_inputs(18)
    with torch.no_grad():
        before = model(*inputs.args())
        for_inference(model)
        after = model(*inputs.args())
    assert torch.equal(before, after)


def test_no_layer_keeps_anything_for_a_backward_pass() -> None:
    model = tiny_model(tiny_shape(bias=True))
    for_inference(model)
    assert model(*tiny_inputs(8).args()).grad_fn is None


def test_a_layer_with_an_adapter_keeps_it() -> None:
    model = tiny_model(tiny_shape()).eval()
    layer = model.decoder.layers[0].mlp.linear_fc1
    attach(layer, row_parallel=False, gated=False, rank=2, alpha=2.0, dropout=0.0, seed=1)
    inputs = tiny_inputs(8)
    with torch.no_grad():
        without = model(*inputs.args())
        layer.lora_b.fill_(0.5)
        before = model(*inputs.args())
        for_inference(model)
        after = model(*inputs.args())
    assert not torch.allclose(before, without, atol=1e-3)
    assert torch.equal(before, after)
