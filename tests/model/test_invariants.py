"""The invariants of chunked cross-attention, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tests.model.tiny import CHUNK, tiny_inputs, tiny_model, tiny_shape


@pytest.mark.parametrize("tokens", [16, 19])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_neighbors_of_a_chunk_are_first_seen_by_its_last_token(tokens: int, chunk: int) -> None:
    model = tiny_model(tiny_shape()).eval()
    inputs = tiny_inputs(tokens)
    changed = inputs.neighbors_BLKR.clone()
    changed[:, chunk] = (changed[:, chunk] + 1) % 50
    before, after = model(*inputs.args()), model(inputs.tokens_BS, changed, inputs.neighbor_mask_BLKR)
    first = (chunk + 1) * CHUNK - 1
    assert torch.equal(before[:, :first], after[:, :first])
    assert not torch.equal(before[:, first], after[:, first])


@pytest.mark.parametrize("position", [0, 3, 4, 9, 15])
def test_outputs_do_not_depend_on_later_tokens(position: int) -> None:
    model = tiny_model(tiny_shape()).eval()
    inputs = tiny_inputs(16)
    changed = inputs.tokens_BS.clone()
    changed[:, position] = (changed[:, position] + 1) % 50
    before, after = model(*inputs.args()), model(changed, inputs.neighbors_BLKR, inputs.neighbor_mask_BLKR)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.equal(before[:, position], after[:, position])


def test_rows_of_a_batch_are_independent() -> None:
    model = tiny_model(tiny_shape()).eval()
    inputs = tiny_inputs(16, batch=3)
    tokens, neighbors = inputs.tokens_BS.clone(), inputs.neighbors_BLKR.clone()
    tokens[1], neighbors[1] = 0, 0
    before, after = model(*inputs.args()), model(tokens, neighbors, inputs.neighbor_mask_BLKR)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("bias", [False, True])
def test_gate_zero_and_missing_neighbors_are_exactly_the_gpt(bias: bool) -> None:
    inputs = tiny_inputs(18)
    retro = tiny_model(tiny_shape(bias=bias)).eval()
    weights = retro.state_dict()
    gpt = tiny_model(tiny_shape(bias=bias, retrieval=False)).eval()
    gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()})
    closed = tiny_model(tiny_shape(bias=bias, gate=0.0)).eval()
    closed.load_state_dict(weights)
    truth = gpt(inputs.tokens_BS)
    nothing = torch.zeros_like(inputs.neighbor_mask_BLKR)
    assert torch.equal(retro(inputs.tokens_BS), truth)
    assert torch.equal(retro(inputs.tokens_BS, inputs.neighbors_BLKR, nothing), truth)
    assert torch.equal(closed(*inputs.args()), truth)
    assert not torch.equal(retro(*inputs.args()), truth)


def test_a_learned_gate_starts_as_the_gpt_and_receives_a_gradient() -> None:
    inputs = tiny_inputs(16)
    model = tiny_model(tiny_shape(gate="learned"))
    assert torch.equal(model(*inputs.args()), model(inputs.tokens_BS))
    model(*inputs.args(), labels_BS=inputs.tokens_BS).mean().backward()
    gates = [p for name, p in model.named_parameters() if name.endswith("learned_gate")]
    assert len(gates) == 2
    assert all(p.grad is not None and p.grad.abs() > 0 for p in gates)


@pytest.mark.parametrize("tells", ["own", "next"])
def test_tokens_that_are_padding_in_a_neighbor_are_never_read(tells: str) -> None:
    model = tiny_model(tiny_shape(cross_values=tells)).eval()
    inputs = tiny_inputs(16)
    changed = torch.where(inputs.neighbor_mask_BLKR, inputs.neighbors_BLKR, (inputs.neighbors_BLKR + 7) % 50)
    assert torch.equal(model(*inputs.args()), model(inputs.tokens_BS, changed, inputs.neighbor_mask_BLKR))


def test_the_order_of_tokens_in_a_neighbor_matters() -> None:
    # Upstream's RoPE models read a neighbor as a bag of words.
    model = tiny_model(tiny_shape()).eval()
    inputs = tiny_inputs(16)
    flipped = inputs.neighbors_BLKR.flip(-1), inputs.neighbor_mask_BLKR.flip(-1)
    assert not torch.allclose(model(*inputs.args()), model(inputs.tokens_BS, *flipped), atol=1e-3)


@pytest.mark.parametrize("setting", ["encoder_rope", "cross_rope"])
def test_positions_can_be_switched_off_one_by_one(setting: str) -> None:
    inputs = tiny_inputs(16)
    with_positions = tiny_model(tiny_shape()).eval()
    without = tiny_model(tiny_shape(**{setting: False})).eval()
    assert not torch.allclose(with_positions(*inputs.args()), without(*inputs.args()), atol=1e-3)


def test_neighbors_of_the_wrong_shape_are_refused() -> None:
    model = tiny_model(tiny_shape()).eval()
    inputs = tiny_inputs(16)
    with pytest.raises(ValueError, match="neighbors have shape"):
        model(inputs.tokens_BS[:, :12], inputs.neighbors_BLKR, inputs.neighbor_mask_BLKR)
    with pytest.raises(ValueError, match="need a mask"):
        model(inputs.tokens_BS, inputs.neighbors_BLKR)


def test_states_of_one_sequence_have_the_strides_of_states_that_were_never_transposed() -> None:
    # With others, torch multiplies by a copy of the first layer's weights for every token: 100 times as slow.
    model = tiny_model(tiny_shape())
    ids = torch.arange(8)[None]
    for batch in (1, 3):
        embedded_SBH = model.embedding(input_ids=ids.expand(batch, -1), position_ids=ids.expand(batch, -1))
        assert embedded_SBH.stride() == (batch * embedded_SBH.size(2), embedded_SBH.size(2), 1)
