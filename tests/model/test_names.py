"""The list of the decoder's weights against real models."""

from __future__ import annotations

from typing import Any

import pytest

from retro.model.names import decoder_shapes, is_retrieval
from tests.model.test_reference import VARIANTS
from tests.model.tiny import tiny_model, tiny_shape


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_weight_is_of_the_decoder_or_of_retrieval(settings: dict[str, Any]) -> None:
    shape = tiny_shape(**settings)
    weights = {name: tuple(value.shape) for name, value in tiny_model(shape).named_parameters()}
    retrieval = {name for name in weights if is_retrieval(name)}
    assert {name: size for name, size in weights.items() if name not in retrieval} == decoder_shapes(shape)
    assert bool(retrieval) == shape.model.retrieval


def test_the_encoder_and_the_gate_are_of_retrieval() -> None:
    names = [
        "decoder.layers.1.cross_attention.encoder.layers.0.mlp.linear_fc1.weight",
        "decoder.layers.1.cross_attention.learned_gate",
        "decoder.layers.1.pre_cross_attn_layernorm.weight",
    ]
    assert all(is_retrieval(name) for name in names)
    assert not is_retrieval("decoder.layers.1.pre_mlp_layernorm.weight")
