"""What transformers' own models take, the exported Retro takes, with the same result; padding changes nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retro.interop.export import without_padding
from retro.model.convert.writer import write_decoder
from tests.interop.test_modeling import exported, load
from tests.model.tiny import CHUNK, VOCABULARY, tiny_inputs, tiny_model, tiny_shape

LLAMA = {"normalization": "RMSNorm", "activation": "swiglu", "query_groups": 2}
GPT2 = {"activation": "gelu_tanh", "positions": "learned", "bias": True, "encoder_rope": False, "cross_rope": False}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def both(tmp_path: Path, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The Retro, and its decoder as a model of transformers' own."""
    shape = tiny_shape(**settings)
    model = tiny_model(shape).eval()
    plain, weights = without_padding(shape, dict(model.named_parameters()))
    (tmp_path / "plain").mkdir()
    write_decoder(plain, {name: weight.detach() for name, weight in weights.items()}, tmp_path / "plain")
    return load(exported(shape, model, tmp_path / "retro")), load(tmp_path / "plain")


@pytest.mark.parametrize("settings", [LLAMA, GPT2, LLAMA | {"tied_embeddings": True}], ids=["llama", "gpt2", "tied"])
def test_embeddings_positions_and_hidden_states_are_those_of_the_plain_decoder(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    retro, plain = both(tmp_path, settings)
    tokens = tiny_inputs(10).tokens_BS
    embedded = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(1))
    # Not one apart, and other ones in each row: a shift alone turns nothing.
    positions = torch.tensor([[0, 1, 2, 5, 6, 7, 11, 12, 13, 14], [3, 4, 6, 8, 10, 12, 14, 16, 18, 20]])
    for asked in (
        {"input_ids": tokens},
        {"inputs_embeds": embedded},
        {"input_ids": tokens, "position_ids": positions},
        {"inputs_embeds": embedded, "position_ids": positions[1:]},
    ):
        ours, theirs = (model(**asked, output_hidden_states=True) for model in (retro, plain))
        torch.testing.assert_close(ours.logits, theirs.logits, **CLOSE)
        assert len(ours.hidden_states) == len(theirs.hidden_states) == 4
        for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
    assert not torch.allclose(retro(tokens, position_ids=positions).logits, retro(tokens).logits, atol=1e-2)
    assert retro(tokens).hidden_states is None
    assert len(retro(tokens, output_hidden_states=True, return_dict=False)[1]) == 4


def test_embedded_tokens_read_neighbors_and_generate_as_their_ids_do(tmp_path: Path) -> None:
    retro, _ = both(tmp_path, LLAMA)
    inputs = tiny_inputs(12)
    neighbors = {"neighbors": inputs.neighbors_BLKR, "neighbor_mask": inputs.neighbor_mask_BLKR}
    embedded = retro.get_input_embeddings()(inputs.tokens_BS)
    by_ids = retro(inputs.tokens_BS, **neighbors).logits
    torch.testing.assert_close(retro(inputs_embeds=embedded, **neighbors).logits, by_ids, **CLOSE)
    assert not torch.allclose(retro(inputs_embeds=embedded).logits, by_ids, atol=1e-3)
    asked = {"max_new_tokens": 6, "eos_token_id": VOCABULARY + 1, **neighbors}
    written = retro.generate(inputs.tokens_BS, **asked)
    assert retro.generate(inputs_embeds=embedded, **asked).tolist() == written[:, 12:].tolist()
    both_given = retro.generate(inputs.tokens_BS, inputs_embeds=embedded, **asked)
    assert both_given[:, -6:].tolist() == written[:, 12:].tolist()
    from_five = torch.arange(5, 17).expand(2, -1)
    moved = retro.generate(inputs.tokens_BS, **asked, position_ids=from_five)
    assert moved.tolist() == written.tolist(), "all are moved by as many"
    told = retro.generate(inputs.tokens_BS, **asked, return_dict_in_generate=True, output_hidden_states=True)
    assert [state.size(1) for state in told.hidden_states[-1]] == [17] * 4


def test_ids_and_embeddings_at_once_or_none_of_them_are_refused(tmp_path: Path) -> None:
    retro, _ = both(tmp_path, LLAMA)
    tokens = tiny_inputs(8).tokens_BS
    for given in ({}, {"input_ids": tokens, "inputs_embeds": torch.zeros(2, 8, 16)}):
        with pytest.raises(ValueError, match="needs input_ids or inputs_embeds, and not both"):
            retro(**given)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 7\), needed \(2, 8\)"):
        retro(tokens, attention_mask=torch.ones(2, 7))


@pytest.mark.parametrize("settings", [LLAMA, LLAMA | {"tied_embeddings": True}], ids=["two", "tied"])
@pytest.mark.parametrize("rows", [VOCABULARY + 3, VOCABULARY - 10])
def test_the_vocabulary_is_resized_as_that_of_the_plain_decoder(
    settings: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    retro, plain = both(tmp_path, settings)
    before = retro(tiny_inputs(8).tokens_BS % 40).logits
    for model in (retro, plain):
        torch.manual_seed(5)
        assert model.resize_token_embeddings(rows).weight.shape == (rows, 16)
    tokens = tiny_inputs(8).tokens_BS % 40
    if rows > VOCABULARY:
        tokens[:, 3] = rows - 1  # a token that there was not
    found = retro(tokens).logits
    assert found.shape == (2, 8, rows)
    assert retro.config.vocab_size == rows
    torch.testing.assert_close(found, plain(tokens).logits, **CLOSE)
    torch.testing.assert_close(found[:, :3, :40], before[:, :3, :40], **CLOSE)
    retro.save_pretrained(tmp_path / "resized")
    torch.testing.assert_close(load(tmp_path / "resized")(tokens).logits, found, **CLOSE)


def alone_and_padded(retro: Any, lengths: list[int], width: int, left: bool, read: Any) -> list[tuple[Tensor, Tensor]]:
    """Logits of each row's tokens by itself, and in a batch of `width`."""
    rows = [tiny_inputs(length, seed=length).tokens_BS[0] for length in lengths]
    tokens, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        tokens[number, place], mask[number, place] = row, 1
    found = retro(tokens, attention_mask=mask, **read(range(len(rows)))).logits
    return [
        (retro(row[None], **read([number])).logits[0], found[number, mask[number].bool()])
        for number, row in enumerate(rows)
    ]


def passages(retro: Any) -> Any:
    one = tiny_inputs(4, batch=3, seed=9)
    neighbors, mask = one.neighbors_BLKR[:, 0], one.neighbor_mask_BLKR[:, 0]
    return lambda rows: {"neighbors": neighbors[list(rows)], "neighbor_mask": mask[list(rows)]}


@pytest.mark.parametrize("settings", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("left", [True, False])
def test_padding_of_unequal_rows_changes_nothing_without_neighbors(
    settings: dict[str, Any], left: bool, tmp_path: Path
) -> None:
    retro, plain = both(tmp_path, settings)
    for alone, padded in alone_and_padded(retro, [5, 11, 8], 13, left, lambda rows: {}):
        torch.testing.assert_close(padded, alone, **CLOSE)
    asked = {"max_new_tokens": 5, "eos_token_id": VOCABULARY + 1, "pad_token_id": 7}
    tokens, mask = tiny_inputs(9).tokens_BS, torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    written = [model.generate(tokens, attention_mask=mask, **asked) for model in (retro, plain)]
    assert written[0].tolist() == written[1].tolist()
    apart = torch.tensor([[0, 0, 0, 0, 0, 2, 4, 6, 8], [0, 1, 3, 5, 7, 9, 11, 12, 13]])
    found = retro.generate(tokens, attention_mask=mask, position_ids=apart, **asked)
    for _ in range(5):
        likely = plain(tokens, attention_mask=mask, position_ids=apart).logits[:, -1:].argmax(-1)
        tokens, mask = torch.cat((tokens, likely), 1), torch.cat((mask, mask[:, -1:]), 1)
        apart = torch.cat((apart, apart[:, -1:] + 1), 1)
    assert found.tolist() == tokens.tolist()


@pytest.mark.parametrize("settings", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(("lengths", "width", "left"), [([4, 12, 8], 16, True), ([5, 11, 8], 13, False)])
def test_padding_by_whole_chunks_on_the_left_or_any_on_the_right_moves_no_passage(
    settings: dict[str, Any], lengths: list[int], width: int, left: bool, tmp_path: Path
) -> None:
    retro, _ = both(tmp_path, settings)
    for alone, padded in alone_and_padded(retro, lengths, width, left, passages(retro)):
        torch.testing.assert_close(padded, alone, **CLOSE)


def test_prompts_of_unequal_length_read_their_passages_in_a_batch_as_alone(tmp_path: Path) -> None:
    retro, _ = both(tmp_path, LLAMA)
    read, asked = passages(retro), {"max_new_tokens": 7, "eos_token_id": VOCABULARY + 1}

    def write(rows: list[int], width: int) -> list[list[int]]:
        lengths = [5, 11, 8]
        tokens, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            length = lengths[row]
            tokens[place, width - length :], mask[place, width - length :] = tiny_inputs(length).tokens_BS[0], 1
        found: Tensor = retro.generate(tokens, attention_mask=mask, **read(rows), **asked)
        return found[:, width:].tolist()

    # Alone each prompt is padded to its own chunk's end, in the batch to the longest's.
    assert write([0, 1, 2], 12) == write([0], 8) + write([1], 12) + write([2], 8)
    assert write([0, 1, 2], 16) == write([0, 1, 2], 12)


def test_left_padding_that_moves_chunks_is_refused_by_generate_and_told_by_forward(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    retro, _ = both(tmp_path, LLAMA)
    inputs = tiny_inputs(10)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, :3] = 0
    read = {"neighbors": inputs.neighbors_BLKR, "neighbor_mask": inputs.neighbor_mask_BLKR}
    words = f"padded on the left to 10 tokens, no multiple of the chunk length {CHUNK}: .*pad_to_multiple_of={CHUNK}"
    with pytest.raises(ValueError, match=words):
        retro.generate(inputs.tokens_BS, attention_mask=mask, max_new_tokens=2, **read)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        retro(inputs.tokens_BS, attention_mask=mask)
        retro(inputs.tokens_BS[:, :8], attention_mask=mask[:, :8], **read)
        retro.generate(inputs.tokens_BS[:, :8], attention_mask=mask[:, :8], max_new_tokens=3, **read)
        assert "padded on the left" not in caplog.text
        retro(inputs.tokens_BS, attention_mask=mask, **read)
        assert "padded on the left to 10 tokens" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)
