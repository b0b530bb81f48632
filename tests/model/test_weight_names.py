"""The canonical names and sizes are those of the real model."""

from __future__ import annotations

from typing import Any

import pytest

from retro.model.count import plain_gpt
from retro.model.weight_names import decoder_sizes, is_retrieval, weight_sizes
from tests.model.test_reference import VARIANTS
from tests.model.tiny import tiny_model, tiny_shape


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_names_and_sizes_are_those_of_the_model(settings: dict[str, Any]) -> None:
    shape = tiny_shape(vocabulary_multiple=64, **settings)
    found = {name: tuple(weight.shape) for name, weight in tiny_model(shape).named_parameters()}
    assert weight_sizes(shape) == found


def test_a_model_that_reads_no_neighbors_in_its_first_layer_holds_the_encoder_where_it_does() -> None:
    names = weight_sizes(tiny_shape(first_cross_attention=3))
    holders = {name.split(".")[2] for name in names if "cross_attention.encoder" in name}
    assert holders == {"2"}


def test_the_decoder_is_the_model_with_retrieval_off() -> None:
    shape = tiny_shape(gate="learned")
    assert decoder_sizes(shape) == weight_sizes(plain_gpt(shape))


def test_the_encoder_the_norm_and_the_gate_are_of_retrieval() -> None:
    names = [
        "decoder.layers.1.cross_attention.encoder.layers.0.mlp.linear_fc1.weight",
        "decoder.layers.1.cross_attention.learned_gate",
        "decoder.layers.1.pre_cross_attn_layernorm.weight",
    ]
    assert all(is_retrieval(name) for name in names)
    assert not is_retrieval("decoder.layers.1.pre_mlp_layernorm.weight")
