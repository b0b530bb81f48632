"""A model filled from a HuggingFace folder has transformers' logits, as a GPT and as a Retro whose gates are zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from retro.common.errors import DataError, TrainingError
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.huggingface import HuggingFaceSource
from retro.model.convert.source import fill_from, require_fits
from retro.model.convert.writer import write_decoder
from retro.model.model import RetroModel
from retro.model.weight_names import is_retrieval
from tests.model.convert.folders import FAMILIES, ROWS, make_folder
from tests.model.tiny import CHUNK, tiny_inputs

KINDS: dict[str, dict[str, Any]] = {
    "gpt": {"retrieval": False},
    "retro, learned gate": {},
    "retro, gate 0": {"gate": 0.0},
}


def shape_of(folder: Path, vocabulary: int = ROWS, **settings: Any) -> ModelShape:
    """The folder's shape, with chunks and padding that suit it."""
    model = ModelConfig(size=str(folder), **({"vocabulary_multiple": 16, "first_cross_attention": 2} | settings))
    return ModelShape(model=model, vocabulary=vocabulary, chunk_length=CHUNK)


def filled(shape: ModelShape, folder: Path) -> RetroModel:
    """A model with fresh weights, then with the folder's."""
    parallel.start()
    parallel.seed(5)
    model = RetroModel(shape)
    source = HuggingFaceSource(folder)
    require_fits(source, shape)
    state = model.sharded_state_dict(metadata={"non_homogeneous_layers": True})
    model.load_state_dict(fill_from(state, source, shape))
    return model.eval()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    plain = make_folder(tmp_path, family)
    model = filled(shape_of(tmp_path, **settings), tmp_path)
    inputs = tiny_inputs(30)
    with torch.no_grad():
        expected = plain(inputs.tokens_BS).logits
        torch.testing.assert_close(model(*inputs.args())[..., :ROWS], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.3


def test_retrieval_starts_fresh_and_is_seen_once_a_gate_opens(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama")
    model, inputs = filled(shape_of(tmp_path), tmp_path), tiny_inputs(30)
    gates = [weight for name, weight in model.named_parameters() if name.endswith("learned_gate")]
    assert [gate.item() for gate in gates] == [0.0]
    with torch.no_grad():
        before = model(*inputs.args())
        gates[0].fill_(0.5)
        assert not torch.allclose(model(*inputs.args()), before)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "phi3"])
def test_a_folder_written_again_holds_the_same_tensors(family: str, tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "in", family)
    shape = shape_of(tmp_path / "in", sequence_length=64)
    write_decoder(shape, dict(filled(shape, tmp_path / "in").named_parameters()), tmp_path / "out")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = HuggingFaceSource(tmp_path / "out")
    assert again.model == HuggingFaceSource(tmp_path / "in").model
    assert plain.config.vocab_size == again.config.vocabulary


def test_a_phi3_is_written_as_the_llama_that_it_computes(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "in", "phi3")
    shape = shape_of(tmp_path / "in", sequence_length=64)
    write_decoder(shape, dict(filled(shape, tmp_path / "in").named_parameters()), tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.config.model_type == "llama"
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-4)


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    plain = make_folder(tmp_path, "mistral", max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = filled(shape_of(tmp_path, retrieval=False), tmp_path)
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :ROWS], plain(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_gpt2_without_its_prefix_and_with_masks_beside_the_weights_is_read(tmp_path: Path) -> None:
    # The folder of the released GPT-2 is like that.
    make_folder(tmp_path, "gpt2")
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(tensors, file)
    model = filled(shape_of(tmp_path, retrieval=False), tmp_path)
    assert torch.equal(model.embedding.word_embeddings.weight[:ROWS], tensors["wte.weight"])


def test_fewer_positions_than_the_folder_has_are_its_first(tmp_path: Path) -> None:
    plain = make_folder(tmp_path, "gpt2")
    model = filled(shape_of(tmp_path, sequence_length=32), tmp_path)
    assert torch.equal(model.embedding.position_embeddings.weight, plain.transformer.wpe.weight[:32])


def test_padding_rows_take_no_more_probability_than_their_share(tmp_path: Path) -> None:
    # With an output bias far below zero, rows of zeros would win every softmax.
    make_folder(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] -= 100 * tensors["model.norm.weight"].sign()
    save_file(tensors, file)
    model = filled(shape_of(tmp_path, vocabulary_multiple=64, retrieval=False), tmp_path)
    torch.testing.assert_close(
        model.output_layer.weight[ROWS:], tensors["lm_head.weight"].mean(0).expand(14, -1), rtol=1e-4, atol=1e-4
    )
    with torch.no_grad():
        probability = model(tiny_inputs(30).tokens_BS).softmax(-1)[..., ROWS:].sum(-1)
    assert probability.max() <= 14 / (ROWS + 14) + 1e-6


def test_a_tokenizer_of_other_size_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama")
    source = HuggingFaceSource(tmp_path)
    assert source.shape(shape_of(tmp_path, 50)).vocabulary == 50
    assert source.shape(shape_of(tmp_path, 40)).vocabulary == 50
    with pytest.raises(TrainingError, match=r"embedding.word_embeddings.weight is \[50, 32\] there, \[64, 32\] here"):
        require_fits(source, shape_of(tmp_path, 51))


def test_a_tokenizer_with_fewer_tokens_than_rows_is_believed_when_the_folder_holds_it(tmp_path: Path) -> None:
    import tokenizers

    make_folder(tmp_path, "llama")
    words = tokenizers.models.WordLevel({f"w{number}": number for number in range(40)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    assert HuggingFaceSource(tmp_path).shape(shape_of(tmp_path, 40)).vocabulary == 40
    model = filled(shape_of(tmp_path, 40, retrieval=False), tmp_path)
    assert model.embedding.word_embeddings.weight.shape == (48, 32)


def test_a_sequence_longer_than_the_sliding_window_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "mistral")
    source = HuggingFaceSource(tmp_path)
    source.require_range(64)
    with pytest.raises(TrainingError, match=r"attends only 64 tokens back \(sliding_window\).*sequence_length is 65"):
        source.require_range(65)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    make_folder(tmp_path, "gpt2")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].to(dtype)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"model.safetensors: holds transformer.wte.weight as (I8|F8_E4M3), which .*quantised"
    ):
        HuggingFaceSource(tmp_path)


def test_weights_that_are_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin, which can run code when it is read.*save_pretrained"):
        HuggingFaceSource(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="has no weights"):
        HuggingFaceSource(tmp_path)


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Put tensors into a folder's file, or take them out."""
    file = folder / "model.safetensors"
    found: dict[str, Tensor | None] = {**load_file(file), **tensors}
    save_file({name: value for name, value in found.items() if value is not None}, file)


def test_tensors_that_do_not_belong_or_do_not_fit_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama")
    change(tmp_path, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    with pytest.raises(
        DataError, match=r"has 1 tensors that a llama has not, model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        HuggingFaceSource(tmp_path)
    change(tmp_path, **{"model.layers.0.self_attn.q_proj.bias": None, "lm_head.weight": None})
    with pytest.raises(DataError, match=r"lacks the tensor lm_head\.weight"):
        HuggingFaceSource(tmp_path)
    change(tmp_path, **{"lm_head.weight": torch.zeros(49, 32)})
    with pytest.raises(DataError, match=r"lm_head\.weight is \[49, 32\], its config says \[50, 32\]"):
        HuggingFaceSource(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama", max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{first.name}: is not a whole safetensors file"):
        HuggingFaceSource(tmp_path)
    first.unlink()
    with pytest.raises(DataError, match=rf"{first.name}: is missing"):
        HuggingFaceSource(tmp_path)
    index.write_text(json.dumps({"weights": {}}))
    with pytest.raises(DataError, match="is not an index of safetensors files"):
        HuggingFaceSource(tmp_path)


def test_no_part_of_retrieval_is_asked_of_a_source(tmp_path: Path) -> None:
    make_folder(tmp_path, "llama")
    shape = shape_of(tmp_path)
    model = RetroModel(shape)
    fresh = {name: value.clone() for name, value in model.named_parameters() if is_retrieval(name)}
    source = HuggingFaceSource(tmp_path)
    assert all(source.size(name) is None for name in fresh)
    state = model.sharded_state_dict(metadata={"non_homogeneous_layers": True})
    model.load_state_dict(fill_from(state, source, shape))
    assert fresh and all(torch.equal(value, model.get_parameter(name)) for name, value in fresh.items())
