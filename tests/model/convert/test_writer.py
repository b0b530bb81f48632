"""The decoder as a plain folder: transformers reads it and computes the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.model.convert.writer import write_decoder
from retro.model.reference import rope_frequencies
from tests.model.tiny import VOCABULARY, tiny_inputs, tiny_model, tiny_shape

LLAMA = {"normalization": "RMSNorm", "activation": "swiglu"}
GPT2 = {"positions": "learned", "bias": True, "encoder_rope": False}
EXPRESSIBLE: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, grouped and tied": LLAMA | {"query_groups": 2, "tied_embeddings": True, "norm_epsilon": 1e-3},
    "llama 3.1": LLAMA | {"rope_base": 500_000, "rope_scaling": 8.0, "hidden_size": 64},
    "llama, norms about zero": LLAMA | {"zero_centered_norm": True},
    "gpt2": GPT2 | {"activation": "gelu_tanh", "tied_embeddings": True, "norm_epsilon": 1e-3},
    "gpt2, without biases": GPT2 | {"bias": False},
    "gpt2, norms about zero": GPT2 | {"zero_centered_norm": True},
    "padded vocabulary": LLAMA | {"vocabulary_multiple": 64},
}


def written(shape: ModelShape, out: Path) -> Any:
    """The model, after its decoder was written to `out`."""
    model = tiny_model(shape).eval()
    write_decoder(shape, dict(model.named_parameters()), out)
    return model


@pytest.mark.parametrize("settings", EXPRESSIBLE.values(), ids=EXPRESSIBLE.keys())
@pytest.mark.parametrize("retrieval", [True, False], ids=["retro", "gpt"])
def test_transformers_computes_the_same_logits(settings: dict[str, Any], retrieval: bool, tmp_path: Path) -> None:
    shape = tiny_shape(**settings, retrieval=retrieval)
    model = written(shape, tmp_path)
    plain, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        expected = model(tokens)[..., :VOCABULARY]
        torch.testing.assert_close(plain.eval()(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert plain.config.vocab_size == VOCABULARY
    assert plain.config.eos_token_id is None and plain.generation_config.eos_token_id is None


def test_llama_3_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    # Few positions of a tiny model cannot tell slow frequencies apart, so these are compared by themselves.
    shape = tiny_shape(**EXPRESSIBLE["llama 3.1"])
    model = written(shape, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = plain.model.rotary_emb.inv_freq
    unscaled = 500_000 ** -(torch.arange(0, 16, 2) / 16)
    # The fifth has a period of 2 pi 500,000^(1/2) = 4,443; (8192/4443 - 1) / 3 = 0.281 of it stays, 0.719/8 is added.
    assert (expected / unscaled).tolist() == pytest.approx([1, 1, 1, 1, 0.3711, 0.125, 0.125, 0.125], abs=1e-3)
    torch.testing.assert_close(model.rotary_pos_emb.inv_freq, expected)
    torch.testing.assert_close(rope_frequencies(shape.model), expected)


def test_bfloat16_weights_stay_bfloat16(tmp_path: Path) -> None:
    shape = tiny_shape(**LLAMA)
    write_decoder(shape, {name: p.bfloat16() for name, p in tiny_model(shape).named_parameters()}, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}


def test_large_weights_go_to_several_files(tmp_path: Path) -> None:
    shape = tiny_shape(**LLAMA)
    model = tiny_model(shape)
    write_decoder(shape, dict(model.named_parameters()), tmp_path, file_limit=10_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 1
    assert all(path.stat().st_size < 12_000 for path in tmp_path.glob("*.safetensors"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain.lm_head.weight, model.output_layer.weight)


def test_a_decoder_that_neither_family_has_is_refused_with_what_is_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_decoder(tiny_shape(query_groups=2, rope_percent=0.5), {}, tmp_path / "out")
    assert str(caught.value) == (
        "model.size = 'tiny': needs an architecture that a family of transformers has to be written as a plain folder; "
        "in the way of GPT-2: positions = rope (needs learned), query_groups = 2 (needs heads = 4); in the way of "
        "Llama: normalization = LayerNorm (needs RMSNorm), activation = gelu (needs swiglu), rope_percent = 0.5 "
        "(needs 1.0)"
    )
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    shape = tiny_shape(**LLAMA)
    weights = dict(tiny_model(shape).named_parameters())
    del weights["decoder.final_layernorm.weight"]
    with pytest.raises(ValueError, match=r"1 weights are missing or of another shape, decoder.final_layernorm.weight"):
        write_decoder(shape, weights, tmp_path)
