"""Where the weights that read neighbors start: gates, and the scale of cross-attention and encoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from retro.model.model import RetroModel
from retro.model.weight_names import is_retrieval
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape


def spread(model: RetroModel, part: str, *, reads: bool) -> float:
    """Standard deviation of all weights of one kind of layer, of retrieval or of the decoder."""
    found = [
        one.detach().flatten()
        for name, one in model.named_parameters()
        if f"{part}.weight" in name and is_retrieval(name) == reads
    ]
    return float(torch.cat(found).std())


def test_retrieval_weights_may_start_at_a_scale_of_their_own() -> None:
    wide = {"hidden_size": 64, "ffn_hidden_size": 128, "layers": 8, "encoder_layers": 2, "init_std": 0.02}
    model = tiny_model(tiny_shape(retrieval_init_std=0.1, **wide))
    assert spread(model, "linear_fc1", reads=False) == pytest.approx(0.02, rel=0.05)
    for part in ("linear_q", "linear_kv", "linear_qkv", "linear_fc1"):
        assert spread(model, part, reads=True) == pytest.approx(0.1, rel=0.05)
    # Output projections are divided by the root of twice the layers of their stack.
    weights = dict(model.named_parameters())
    of_decoder = weights["decoder.layers.1.cross_attention.linear_proj.weight"].std().item()
    of_encoder = weights["decoder.layers.1.cross_attention.encoder.layers.1.mlp.linear_fc2.weight"].std().item()
    assert of_decoder == pytest.approx(0.1 / math.sqrt(16), rel=0.06)
    assert of_encoder == pytest.approx(0.1 / math.sqrt(4), rel=0.06)
    plain = tiny_model(tiny_shape(**wide))
    assert spread(plain, "linear_q", reads=True) == pytest.approx(0.02, rel=0.05)


def test_a_gate_that_starts_at_zero_is_the_gpt_and_an_open_one_is_not() -> None:
    inputs = tiny_inputs(16)
    gpt = tiny_model(tiny_shape(gate=0.0)).eval()(*inputs.args())
    shut = tiny_model(tiny_shape(gate="learned")).eval()(*inputs.args())
    ajar = tiny_model(tiny_shape(gate="learned", gate_init=0.05)).eval()(*inputs.args())
    constant = tiny_model(tiny_shape(gate=0.05)).eval()(*inputs.args())
    torch.testing.assert_close(shut, gpt, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ajar, gpt, atol=1e-4)
    torch.testing.assert_close(ajar, constant, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("groups", "encoder_layers"), [(4, 0), (2, 0), (4, 2)])
def test_a_fresh_look_up_predicts_what_followed_the_same_token_in_a_neighbor(groups: int, encoder_layers: int) -> None:
    settings = {"hidden_size": 128, "heads": 4, "query_groups": groups, "ffn_hidden_size": 64, "init_std": 0.02}
    look_up: dict[str, Any] = {"cross_values": "next", "retrieval_init": "copying", "encoder_norm": True}
    look_up |= {"encoder_layers": encoder_layers}
    parts = {"layers": 1, "first_cross_attention": 1, "tied_embeddings": True, "sequence_length": 8}
    right: dict[str, float] = {}
    for name, own in {"look-up": look_up, "random": {**look_up, "retrieval_init": "random"}}.items():
        model = tiny_model(tiny_shape(**settings, **parts, **own)).eval()
        hits = []
        for seed in range(20):
            order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:8]
            neighbors = order.view(1, 1, 1, 8).expand(1, 2, 1, 8)
            logits_1SV = model(order[None], neighbors, torch.ones_like(neighbors, dtype=torch.bool))
            # The first reader is the last token of the first chunk, 3; the last token of all has no successor.
            hits += (logits_1SV[0, 3:7].argmax(-1) == order[4:8]).tolist()
        right[name] = sum(hits) / len(hits)
    # With grouped queries, half the heads ask at random.
    assert right["look-up"] > (0.95 if groups == 4 else 0.65)
    assert right["random"] < 0.2
