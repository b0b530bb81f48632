"""Neighbors without their padding give what they give with it, and cost what their real tokens cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from retro.model.attention import ChunkedCrossAttention
from retro.model.model import BuildOptions, RetroModel
from retro.model.real_tokens import RealTokens
from tests.model.tiny import CHUNK, tiny_inputs, tiny_model, tiny_shape

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two encoder layers, grouped queries": {"encoder_layers": 2, "query_groups": 2, "encoder_norm": True},
    "learned positions": {"positions": "learned", "encoder_rope": False, "cross_rope": False, "bias": True},
    "what comes next": {"cross_values": "next", "normalization": "RMSNorm", "activation": "swiglu"},
    "normed queries and keys": {"qk_norm": True, "gate": "learned"},
}
R = 2 * CHUNK


def masks() -> dict[str, Tensor]:
    """[2, 4, 2, R] by name."""
    whole = torch.ones(2, 4, 2, R, dtype=torch.bool)
    scattered = torch.rand(whole.shape, generator=torch.Generator().manual_seed(3)) > 0.4
    no_continuation, missing, one = whole.clone(), scattered.clone(), torch.zeros_like(whole)
    no_continuation[..., CHUNK:] = False
    missing[0, 1:3], missing[1, :, 1] = False, False
    one[1, 2, 0, 3] = True
    return {
        "all real": whole, "no continuation": no_continuation, "scattered": scattered, "some missing": missing,
        "one token": one, "nothing": torch.zeros_like(whole),
    }  # fmt: skip


def on_padding_too(model: RetroModel) -> RetroModel:
    """The model as it computes where ranks share out tokens."""
    model._real_tokens_only = False
    for module in model.modules():
        if isinstance(module, ChunkedCrossAttention):
            module.real_tokens_only = False
    return model


def outcome(model: RetroModel, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = tiny_inputs(16)
    logits = model(inputs.tokens_BS, inputs.neighbors_BLKR, mask)
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in model.named_parameters()
    }


@pytest.mark.parametrize("name", list(masks()))
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_logits_and_gradients_are_those_with_padding(settings: dict[str, Any], name: str) -> None:
    shape = tiny_shape(**settings)
    (found, gradients), (expected, wanted) = (
        outcome(model, masks()[name]) for model in (tiny_model(shape), on_padding_too(tiny_model(shape)))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-4, atol=1e-4, msg=parameter)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_what_is_computed_again_is_the_same(recompute: str) -> None:
    shape, mask = tiny_shape(), masks()["some missing"]
    model = RetroModel(shape, BuildOptions(recompute=recompute))
    model.load_state_dict(tiny_model(shape).state_dict())
    (found, gradients), (expected, wanted) = (outcome(one, mask) for one in (model, tiny_model(shape)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-4, atol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", list(masks()))
def test_only_real_tokens_go_through_linear_layers(name: str) -> None:
    model, inputs, mask = tiny_model(tiny_shape()), tiny_inputs(16), masks()[name]
    rows: dict[str, int] = {}
    for module, layer in model.named_modules():
        if "encoder" in module and module.endswith(("linear_fc1", "linear_qkv", "linear_q", "linear_proj")):
            layer.register_forward_hook(lambda _, given, __, module=module: rows.update({module: given[0].size(0)}))
    model(inputs.tokens_BS, inputs.neighbors_BLKR, mask)
    assert len(rows) >= 4
    assert set(rows.values()) == {max(int(mask.sum()), 1)}


def test_tokens_come_back_to_their_places() -> None:
    mask_CR = masks()["scattered"].flatten(0, 2)
    real = RealTokens.of(mask_CR)
    x_RCX = torch.randn(R, len(mask_CR), 3, dtype=torch.float64, requires_grad=True)
    packed = real.pack(x_RCX)
    assert packed.shape == (int(mask_CR.sum()), 1, 3)
    assert torch.equal(real.spread(packed), torch.where(mask_CR.T[..., None], x_RCX, 0.0))
    assert torch.equal(real.positions(mask_CR.device), torch.arange(R)[:, None].expand_as(mask_CR.T)[mask_CR.T])
    assert torch.autograd.gradcheck(real.pack, (x_RCX,))
    assert torch.autograd.gradcheck(real.spread, (packed.detach().requires_grad_(),))
