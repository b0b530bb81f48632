"""The megatron model and the plain reference compute the same logits and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retro.model.reference import ReferenceRetro
from tests.model.tiny import VOCABULARY, tiny_inputs, tiny_model, tiny_shape

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"query_groups": 2},
    "swiglu, rms norm": {"activation": "swiglu", "normalization": "RMSNorm"},
    "instructretro": {"zero_centered_norm": True, "rope_percent": 0.5},
    "biases, learned positions": {
        "bias": True,
        "positions": "learned",
        "encoder_rope": False,
        "cross_rope": False,
    },
    # A square has no bound on its slope: with weights as large as the others have, float32 would be 1e-5 off.
    "squared relu": {"activation": "squared_relu", "init_std": 0.2},
    "no positions in the decoder": {"positions": "none"},
    "no positions at all": {"positions": "none", "encoder_rope": False, "cross_rope": False},
    "tied": {"tied_embeddings": True},
    "gpt-2": {"activation": "gelu_tanh", "positions": "learned", "bias": True, "norm_epsilon": 0.01},
    "llama 3.1": {"normalization": "RMSNorm", "norm_epsilon": 0.01, "rope_scaling": 8.0, "rope_base": 500_000},
    "qwen2": {"normalization": "RMSNorm", "qkv_bias": True, "query_groups": 2},
    "qwen3": {"normalization": "RMSNorm", "qk_norm": True, "head_width": 8, "query_groups": 2},
    "layer norms of queries and keys": {"qk_norm": True},
    "every second layer unrotated": {"rope_skip_interval": 2},
    "half a gate": {"gate": 0.5},
    "learned gate": {"gate": "learned"},
    "open gate, norm after the encoder": {"gate": "learned", "gate_init": 0.3, "encoder_norm": True},
    "norm after one encoder layer": {"encoder_layers": 1, "encoder_norm": True, "normalization": "RMSNorm"},
    "no encoder": {"encoder_layers": 0},
    "what comes next": {"cross_values": "next"},
    "a look-up of what comes next": {
        "cross_values": "next",
        "retrieval_init": "copying",
        "encoder_norm": True,
        "query_groups": 2,
        "bias": True,
    },
    "a norm for an encoder, every layer reads": {
        "encoder_layers": 0,
        "encoder_norm": True,
        "first_cross_attention": 1,
    },
    "gpt": {"retrieval": False},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("tokens", [16, 18, 7, 3])
def test_logits_equal_the_reference(settings: dict[str, Any], tokens: int) -> None:
    shape = tiny_shape(**settings)
    model = tiny_model(shape).eval()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    if shape.model.gate == "learned":
        for name in weights:
            if name.endswith("learned_gate"):
                weights[name].fill_(0.7)
    inputs = tiny_inputs(tokens)
    expected = ReferenceRetro(shape, weights)(*inputs.args())
    found = model(*inputs.args())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_gradients_equal_the_reference(settings: dict[str, Any]) -> None:
    shape = tiny_shape(**settings)
    model = tiny_model(shape)
    inputs = tiny_inputs(18)
    labels = torch.randint(0, VOCABULARY, (2, 18), generator=torch.Generator().manual_seed(5))
    model(*inputs.args(), labels_BS=labels).mean().backward()
    copies = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    logits = ReferenceRetro(shape, copies)(*inputs.args())
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    for name, parameter in model.named_parameters():
        found, expected = parameter.grad, copies[name].grad
        if expected is None:
            assert found is None or not found.any(), name
            continue
        assert found is not None, name
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_left_padding_is_never_attended() -> None:
    shape = tiny_shape()
    model = tiny_model(shape).eval()
    inputs = tiny_inputs(16)
    real = torch.ones(2, 16, dtype=torch.bool)
    real[0, :3] = False
    weights = {name: value.detach() for name, value in model.named_parameters()}
    expected = ReferenceRetro(shape, weights)(*inputs.args(), real)
    torch.testing.assert_close(model(*inputs.args(), real)[real], expected[real], rtol=1e-5, atol=1e-5)
    changed = inputs.tokens_BS.clone()
    changed[0, :3] = 1
    again = model(changed, inputs.neighbors_BLKR, inputs.neighbor_mask_BLKR, real)
    assert torch.equal(again[real], model(*inputs.args(), real)[real])
