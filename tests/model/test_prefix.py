"""A prefix beside the tokens: equal to a plain reference, nothing at the start, nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from retro.mcore import parallel
from retro.model.config import ModelShape
from retro.model.model import BuildOptions, RetroModel
from retro.model.prefix import PREFIX, PrefixInputs, PrefixLayers, attach, prefix_attention
from retro.model.reference import ReferenceRetro
from retro.model.weight_names import ADDED_MODULE
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape

WIDTH = 12
LLAMA: dict[str, Any] = {"normalization": "RMSNorm", "activation": "swiglu", "query_groups": 2, "retrieval": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt-2": {"retrieval": False, "positions": "learned", "bias": True, "activation": "gelu_tanh"},
    "llama": LLAMA,
    "qwen3": LLAMA | {"qk_norm": True, "head_width": 8},
    "qwen2": LLAMA | {"qkv_bias": True},
    "every second layer unrotated": LLAMA | {"rope_skip_interval": 2},
    "retro": {},
    "retro, grouped queries, learned gate": {"query_groups": 2, "gate": "learned", "gate_init": 0.4},
}


def with_prefix(shape: ModelShape, gate: float = 0.0, **settings: Any) -> RetroModel:
    """A tiny model with a prefix whose gates stand at `gate`, and beside it for each head a little elsewhere."""
    model = tiny_model(shape).eval()
    prefix = attach(model, PrefixLayers(model.config, WIDTH, **settings))
    model.add_module(f"{ADDED_MODULE}{PREFIX}", prefix)
    prefix.eval()
    for number in prefix.numbers:
        part = prefix.layer(number)
        assert part is not None
        if gate:
            part.learned_gate.data = gate + 0.1 * torch.arange(len(part.gate)).float()
    return model


def states(prefix: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(prefix, batch, WIDTH, generator=torch.Generator().manual_seed(seed))


def inputs(prefix: int, batch: int = 2, missing: int = 2) -> PrefixInputs:
    real = torch.ones(batch, prefix, dtype=torch.bool)
    real[1, prefix - missing :] = False
    return PrefixInputs(states(prefix, batch), real)


class PrefixedReference(ReferenceRetro):
    """The plain model, each of whose self-attentions reads a prefix; for one sequence."""

    def read(self, prefix: PrefixLayers, states_nE: Tensor) -> PrefixedReference:
        self.prefix, self.states_nE = prefix, states_nE
        return self

    def _self_attention(self, layer: str, x_SH: Tensor, mask_SS: Tensor, positions: Any) -> Tensor:
        out_SH = super()._self_attention(layer, x_SH, mask_SS, positions)
        part = self.prefix.layer(int(layer.split(".")[2])) if layer.count("layers.") == 1 else None
        if part is None:
            return out_SH
        groups, width = self.model.query_groups, self.model.head_width
        of_group = self.model.heads // groups
        mixed = self._linear(layer + "self_attention.linear_qkv", x_SH).view(len(x_SH), groups, of_group + 2, width)
        query_SND = mixed[:, :, :of_group].flatten(1, 2)
        if self.model.qk_norm:
            query_SND = self._norm(layer + "self_attention.q_layernorm", query_SND)
        pieces = []
        weight_G2DE = self.weights[f"added_prefix.{layer.split('.')[2]}.linear_kv.weight"].view(groups, 2, width, -1)
        for head in range(self.model.heads):
            key_nD = self.states_nE @ weight_G2DE[head // of_group, 0].T
            value_nD = self.states_nE @ weight_G2DE[head // of_group, 1].T
            weights_Sn = (query_SND[:, head] @ key_nD.T / width**0.5).softmax(-1)
            pieces.append(part.gate[head] * (weights_Sn @ value_nD))
        return out_SH + torch.cat(pieces, 1) @ self.weights[layer + "self_attention.linear_proj.weight"].T


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_and_gradients_equal_the_reference(settings: dict[str, Any]) -> None:
    model = with_prefix(tiny_shape(**settings), gate=0.5)
    given, read = tiny_inputs(18), inputs(5)
    found = model(*given.args(), prefix=read)
    weights = dict(model.named_parameters())
    reference = PrefixedReference(model.shape, weights)
    for row in range(2):
        kept = read.states_nBE[read.real_Bn[row], row]
        one = [x[row : row + 1] for x in given.args()]
        expected = reference.read(model.added_prefix, kept)(*one)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-5, atol=1e-5)
        if row == 0:
            ours = torch.autograd.grad(
                found[:1].square().mean(), list(model.added_prefix.parameters()), retain_graph=True
            )
            theirs = torch.autograd.grad(expected.square().mean(), list(model.added_prefix.parameters()))
            for one_of, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one_of, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_with_closed_gates_it_is_the_model_without_bit_for_bit(settings: dict[str, Any], *, bfloat16: bool) -> None:
    shape = tiny_shape(**settings)
    parallel.start()
    parallel.seed(3)
    model = RetroModel(shape, BuildOptions(bfloat16=bfloat16)).eval()
    given = tiny_inputs(18)
    before = model(*given.args())
    model.add_module("added_prefix", attach(model, PrefixLayers(model.config, WIDTH)))
    read = PrefixInputs(states(5).to(before.dtype), torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(model(*given.args(), prefix=read), before)
    assert torch.equal(model(*given.args()), before)


def test_a_prefix_of_length_zero_and_one_that_is_all_masked_are_none() -> None:
    model = with_prefix(tiny_shape(**LLAMA), gate=0.5)
    given = tiny_inputs(9)
    before = model(*given.args())
    empty = PrefixInputs(states(0), torch.ones(2, 0, dtype=torch.bool))
    masked = PrefixInputs(states(4), torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(model(*given.args(), prefix=empty), before)
    assert torch.equal(model(*given.args(), prefix=masked), before)


def test_a_batch_of_unequal_prefixes_is_each_alone() -> None:
    model = with_prefix(tiny_shape(**LLAMA, init_std=0.1), gate=0.5)
    given, read = tiny_inputs(9), inputs(6, missing=3)
    together = model(*given.args(), prefix=read)
    for row, length in ((0, 6), (1, 3)):
        alone = PrefixInputs(read.states_nBE[:length, row : row + 1], torch.ones(1, length, dtype=torch.bool))
        one = [x[row : row + 1] for x in given.args()]
        torch.testing.assert_close(model(*one, prefix=alone), together[row : row + 1], rtol=1e-6, atol=1e-6)


def test_the_order_of_documents_does_not_matter() -> None:
    model = with_prefix(tiny_shape(**LLAMA), gate=0.5)
    given, made = tiny_inputs(9), states(6)
    real = torch.ones(2, 6, dtype=torch.bool)
    first = model(*given.args(), prefix=PrefixInputs(made, real))
    swapped = model(*given.args(), prefix=PrefixInputs(torch.cat((made[4:], made[:4])), real))
    torch.testing.assert_close(first, swapped, rtol=1e-5, atol=1e-5)


def test_how_far_a_token_is_does_not_change_what_the_prefix_says() -> None:
    # Neither queries nor keys of the prefix are rotated: the same query reads the same at any position.
    query = torch.randn(1, 1, 2, 4).expand(7, 1, 2, 4)
    read = prefix_attention(
        query, torch.randn(3, 1, 2, 4), torch.randn(3, 1, 2, 4), torch.ones(1, 3).bool(), torch.ones(2)
    )
    assert torch.equal(read, read[:1].expand_as(read))


def test_prefix_attention_by_hand() -> None:
    # One head of width one: scores 0 and ln 3 are weights 1/4 and 3/4; values 4 and 8 give 7; the gate halves it.
    query, keys = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 3.0]).log().clamp(min=0.0)
    values = torch.tensor([4.0, 8.0]).view(2, 1, 1, 1)
    real = torch.ones(1, 2, dtype=torch.bool)
    read = prefix_attention(query, keys.view(2, 1, 1, 1), values, real, torch.tensor([0.5]))
    assert read.item() == pytest.approx(3.5)
    real[0, 1] = False
    assert prefix_attention(query, keys.view(2, 1, 1, 1), values, real, torch.tensor([0.5])).item() == pytest.approx(
        2.0
    )


def test_the_shape_is_layers_2_batch_heads_n_width() -> None:
    model = with_prefix(tiny_shape(**LLAMA))
    found = model.added_prefix.keys_values(states(5))
    assert found.shape == (3, 2, 2, 2, 5, 4)
    key, value = model.added_prefix.layer(1).keys_values(states(5))
    assert torch.equal(found[1, 0, 1, 0, 3], key[3, 1, 0])
    assert torch.equal(found[1, 1, 1, 0, 3], value[3, 1, 0])


def test_of_llama_13b_it_is_40_2_batch_40_n_128() -> None:
    parallel.start()
    config = tiny_model(tiny_shape(layers=40, retrieval=False, hidden_size=8, heads=4, query_groups=4)).config
    config.num_attention_heads, config.num_query_groups, config.kv_channels = 40, 40, 128
    config.perform_initialization = False
    with torch.device("meta"):
        prefix = PrefixLayers(config, 768)
        found = prefix.keys_values(torch.empty(7, 3, 768))
    assert found.shape == (40, 2, 3, 40, 7, 128)
    assert found.shape[1] * found.shape[3] == 80
    assert prefix.gates.shape == (40, 40)


def test_layers_that_do_not_read_are_left_as_they_are() -> None:
    model = with_prefix(tiny_shape(**LLAMA), gate=0.5, layers=(2,))
    assert [name for name, _ in model.added_prefix.named_children()] == ["2"]
    with pytest.raises(ValueError, match=r"for layers \(1, 7\), of which the model lacks \[7\]"):
        attach(model, PrefixLayers(model.config, WIDTH, layers=(7, 1)))


def test_the_gate_stays_fp32_with_all_its_digits() -> None:
    model = with_prefix(tiny_shape(**LLAMA), gate_init=0.1)
    model.to(torch.bfloat16)
    part = model.added_prefix.layer(0)
    assert part.gate.dtype == torch.float32
    assert part.linear_kv.weight.dtype == torch.bfloat16
    assert torch.equal(part.gate, torch.full((4,), 0.1))


def test_a_model_without_one_refuses_a_prefix() -> None:
    model = tiny_model(tiny_shape(**LLAMA))
    with pytest.raises(ValueError, match="nothing that reads a prefix"):
        model(*tiny_inputs(9).args(), prefix=inputs(3))
    with pytest.raises(ValueError, match="do not fit"):
        PrefixInputs(states(3), torch.ones(3, 2, dtype=torch.bool))


def test_selective_recompute_gives_the_same_gradients() -> None:
    found = []
    for recompute in ("none", "selective"):
        parallel.start()
        parallel.seed(3)
        model = RetroModel(tiny_shape(**LLAMA), BuildOptions(recompute=recompute))
        model.add_module("added_prefix", attach(model, PrefixLayers(model.config, WIDTH, gate_init=0.3)))
        model.embedding.register_forward_hook(lambda _m, _i, out: out.requires_grad_())
        given = tiny_inputs(9)
        read = PrefixInputs(states(5).requires_grad_(), inputs(5).real_Bn)
        model(*given.args(), labels_BS=given.tokens_BS, prefix=read).sum().backward()
        found.append([read.states_nBE.grad, *(one.grad for one in model.added_prefix.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", [VARIANTS["llama"], VARIANTS["gpt-2"], VARIANTS["qwen3"]])
def test_frozen_projections_are_those_of_the_layer(settings: dict[str, Any]) -> None:
    model = with_prefix(tiny_shape(**settings), projection="frozen")
    prefix: Any = model.added_prefix
    assert all("linear_kv" not in name for name, _ in prefix.named_parameters())
    hidden_nBH = prefix.projected(states(5))
    layer = model.decoder.layers[1]
    _, key, value = layer.self_attention.get_query_key_value_tensors(layer.input_layernorm(hidden_nBH))
    found_key, found_value = prefix.layer(1).keys_values(hidden_nBH)
    torch.testing.assert_close(found_key, key)
    torch.testing.assert_close(found_value, value)
    with pytest.raises(ValueError, match="attach the prefix"):
        PrefixLayers(model.config, WIDTH, projection="frozen").keys_values(states(2))
