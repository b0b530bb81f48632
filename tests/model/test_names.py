"""Which weights are retrieval's and which are the decoder's."""

from __future__ import annotations

from retro.model.count import plain_gpt
from retro.model.names import decoder_sizes, is_retrieval
from retro.model.weight_names import weight_sizes
from tests.model.tiny import tiny_shape


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
