"""Without what only training needs, linear layers compute the same to the bit, and from float16 weights nearly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retro.common.errors import ConfigError
from retro.mcore import inference
from retro.mcore.cpu import on_cpu
from retro.mcore.inference import for_inference, require_float16_weights
from retro.mcore.lora import attach
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape

needs_fbgemm = pytest.mark.skipif(
    not on_cpu() or "fbgemm" not in torch.backends.quantized.supported_engines, reason="needs an x86 CPU"
)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"bias": True, "positions": "learned", "encoder_rope": False, "cross_rope": False},
    {"tied_embeddings": True, "activation": "swiglu", "normalization": "RMSNorm"},
]


@pytest.mark.parametrize("settings", SETTINGS)
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


@pytest.mark.parametrize(("float16", "within"), [(False, 0.0), pytest.param(True, 1e-2, marks=needs_fbgemm)])
def test_a_layer_with_an_adapter_keeps_it(float16: bool, within: float) -> None:
    model = tiny_model(tiny_shape()).eval()
    layer = model.decoder.layers[0].mlp.linear_fc1
    attach(layer, row_parallel=False, gated=False, rank=2, alpha=2.0, dropout=0.0, seed=1)
    inputs = tiny_inputs(8)
    with torch.no_grad():
        without = model(*inputs.args())
        layer.lora_b.fill_(0.5)
        before = model(*inputs.args())
        for_inference(model, float16_weights=float16)
        after = model(*inputs.args())
    assert not torch.allclose(before, without, atol=1e-2)
    assert torch.allclose(before, after, atol=within, rtol=0)


@needs_fbgemm
@pytest.mark.parametrize("settings", SETTINGS)
def test_float16_weights_give_what_rounded_weights_give(settings: dict[str, Any]) -> None:
    """The only difference to float32 is the rounding of each weight: sums are taken in float32."""
    model, rounded = (tiny_model(tiny_shape(**settings)).eval() for _ in range(2))
    rounded.load_state_dict(model.state_dict())
    linear = [name for name, one in rounded.named_modules() if hasattr(one, "skip_bias_add") and one.weight is not None]
    with torch.no_grad():
        for name in linear:
            weight = rounded.get_submodule(name).weight
            weight.copy_(weight.half().float())
        if settings.get("tied_embeddings"):
            # One table: it is looked up in float32, and multiplied in float16.
            rounded.output_layer.weight = torch.nn.Parameter(model.shared_embedding_or_output_weight().half().float())
            rounded.share_embeddings_and_output_weights = False
        inputs = tiny_inputs(18)
        for_inference(model, float16_weights=True)
        found, expected = model(*inputs.args()), rounded(*inputs.args())
    assert len(linear) > 8
    assert torch.allclose(found, expected, atol=2e-6, rtol=1e-5)


@needs_fbgemm
def test_float16_weights_are_the_only_copy() -> None:
    model = tiny_model(tiny_shape())
    before = sum(one.numel() for one in model.parameters())
    for_inference(model, float16_weights=True)
    assert sum(one.numel() for one in model.parameters()) < before / 2


@needs_fbgemm
def test_float16_weights_are_refused_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    require_float16_weights("generate.precision", 1)
    with pytest.raises(ConfigError, match=r"generate.precision.*one process, and 2 share"):
        require_float16_weights("generate.precision", 2)
    monkeypatch.setattr(inference, "_FBGEMM", "another")
    with pytest.raises(ConfigError, match="needs a torch with FBGEMM"):
        require_float16_weights("generate.precision", 1)
    monkeypatch.setattr(inference, "on_cpu", lambda: False)
    with pytest.raises(ConfigError, match="needs a CPU"):
        require_float16_weights("generate.precision", 1)
