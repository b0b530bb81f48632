"""A model filled from a checkpoint that plain megatron-core wrote has that model's logits."""

from __future__ import annotations

import argparse
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import ArtifactError, DataError, TrainingError
from retro.mcore import checkpoint as sharded
from retro.mcore import parallel
from retro.mcore.kernels import LOCAL
from retro.mcore.layers import GPTModel, Norm, TransformerBlockSubmodules
from retro.mcore.parallel import ONE_PROCESS
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.config import ModelShape
from retro.model.convert.megatron import MegatronSource, find_megatron
from retro.model.convert.source import fill_from, require_fits
from retro.model.model import RetroModel
from retro.model.specs import decoder_layer_spec, transformer_config
from tests.model.tiny import VOCABULARY, tiny_inputs, tiny_shape

ROWS = 64  # padded otherwise than ours
LLAMA = {"activation": "swiglu", "normalization": "RMSNorm", "query_groups": 2}
GPT = {"bias": True, "positions": "learned", "tied_embeddings": True, "encoder_rope": False}
FUSED = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


def plain_gpt_model(shape: ModelShape) -> Any:
    """megatron-core's GPTModel as its own trainer would build it, with random norms and biases."""
    parallel.start()
    parallel.seed(9)
    model = shape.model
    config = transformer_config(model, layers=model.layers, dropout=0.0, bfloat16=False, layout=ONE_PROCESS)
    specs = [decoder_layer_spec(LOCAL, None, qk_norm=model.qk_norm) for _ in range(model.layers)]
    gpt = GPTModel(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=specs, layer_norm=Norm),
        vocab_size=ROWS,
        max_sequence_length=model.sequence_length,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type="rope" if model.positions == "rope" else "learned_absolute",
        rotary_base=model.rope_base,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return gpt.eval()


def renamed(state: dict[str, Any], fused: bool, prefix: str) -> dict[str, Any]:
    """The sharded state under the names that Transformer Engine's fused layers, or a wrapper, would give."""
    result = {}
    for name, value in state.items():
        key = value.key
        for ours, theirs in FUSED.items() if fused else ():
            key = key.replace(ours, theirs)
        result[name] = replace(value, key=prefix + key)
    return result


def saved(
    gpt: Any, directory: Path, *, stacked: bool = True, fused: bool = False, prefix: str = "", **more: Any
) -> Path:
    """A checkpoint with what megatron-core's trainer puts beside the weights: its arguments, as a pickle."""
    state = gpt.sharded_state_dict(metadata=None if stacked else {"non_homogeneous_layers": True})
    directory.mkdir(parents=True)
    rest = {"args": argparse.Namespace(num_layers=3), "iteration": 7}
    sharded.save({"model": renamed(state, fused, prefix), **rest, **more}, directory)
    return directory


def filled(shape: ModelShape, directory: Path) -> RetroModel:
    """A model with fresh weights, then with the checkpoint's."""
    parallel.seed(5)
    model = RetroModel(shape)
    source = MegatronSource(directory, shape)
    require_fits(source, shape)
    model.load_state_dict(fill_from(model.sharded_state_dict(metadata={"non_homogeneous_layers": True}), source, shape))
    return model.eval()


@pytest.mark.parametrize("settings", [LLAMA, GPT], ids=["llama-like", "gpt-like"])
@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "one by one"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused norms", "own norms"])
@pytest.mark.parametrize("retrieval", [True, False], ids=["retro", "gpt"])
def test_logits_are_those_of_the_megatron_model(
    settings: dict[str, Any], stacked: bool, fused: bool, retrieval: bool, tmp_path: Path
) -> None:
    shape = tiny_shape(**settings, gate="learned", retrieval=retrieval)
    gpt = plain_gpt_model(shape)
    path = saved(gpt, tmp_path / "iter_0000007", stacked=stacked, fused=fused)
    # Never opened: neither a pickle that runs code nor rubbish in its place does anything.
    (path / "common.pt").write_bytes(b"rubbish")
    model = filled(shape, path)
    inputs = tiny_inputs(30)
    with torch.no_grad():
        positions = torch.arange(30).expand(2, -1)
        expected = gpt(inputs.tokens_BS, positions, None)[..., :VOCABULARY]
        torch.testing.assert_close(model(*inputs.args()), expected, rtol=1e-5, atol=1e-5)


def test_names_under_a_wrapper_are_found(tmp_path: Path) -> None:
    shape = tiny_shape(**LLAMA, retrieval=False)
    gpt = plain_gpt_model(shape)
    model = filled(shape, saved(gpt, tmp_path / "nemo", prefix="module."))
    assert torch.equal(model.decoder.final_layernorm.weight, gpt.decoder.final_layernorm.weight)


def test_a_run_of_megatrons_trainer_means_its_newest_checkpoint(tmp_path: Path) -> None:
    assert find_megatron(tmp_path) is None
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1200\n")
    assert find_megatron(tmp_path) == tmp_path / "iter_0001200"
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    with pytest.raises(DataError, match="holds 'release', not the number of an iteration"):
        find_megatron(tmp_path)


@pytest.mark.parametrize("note", [b"", b"-1", b"9" * 5_000, b"\xff\xfe", "१२".encode(), b"1e3", b"../../x"])
def test_a_note_of_no_iteration_is_one_error(note: bytes, tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_bytes(note)
    with pytest.raises(
        DataError, match=r"latest_checkpointed_iteration\.txt: says .*, needs 'release' or the number of"
    ):
        find_megatron(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bias": True}, r"decoder\.layers\.0\.self_attention\.linear_qkv\.bias is missing"),
        ({"ffn_hidden_size": 48}, r"mlp\.linear_fc1\.weight is \[64, 16\] there, \[96, 16\] here"),
        ({"activation": "gelu"}, r"mlp\.linear_fc1\.weight is \[64, 16\] there, \[32, 16\] here"),
        ({"normalization": "LayerNorm"}, r"input_layernorm\.bias is missing"),
        ({"query_groups": 4}, r"linear_qkv\.weight is \[32, 16\] there, \[48, 16\] here"),
        ({"layers": 4}, r"model\.layers is 3 there, 4 here"),
        ({"layers": 2}, r"model\.layers is 3 there, 2 here"),
        ({"tied_embeddings": True}, r"has 1 weights that this model has no place for, output_layer\.weight the first"),
        ({"positions": "learned", "encoder_rope": False}, r"embedding\.position_embeddings\.weight is missing"),
    ],
)
def test_another_architecture_is_named_with_both_sizes(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = saved(plain_gpt_model(tiny_shape(**LLAMA)), tmp_path / "gpt")
    with pytest.raises(TrainingError, match=words):
        filled(tiny_shape(**(LLAMA | settings)), path)


def test_layers_that_are_too_many_are_found_when_each_stands_alone(tmp_path: Path) -> None:
    path = saved(plain_gpt_model(tiny_shape(**LLAMA)), tmp_path / "gpt", stacked=False)
    with pytest.raises(TrainingError, match=r"no place for, decoder\.layers\.2\.input_layernorm\.weight the first"):
        MegatronSource(path, tiny_shape(**LLAMA, layers=2))


def test_what_is_no_gpt_is_refused(tmp_path: Path) -> None:
    path = saved(plain_gpt_model(tiny_shape(**LLAMA)), tmp_path / "bert", prefix="encoder.")
    with pytest.raises(TrainingError, match=r"has no tensors named decoder\.\*, so it is not a GPT of megatron-core"):
        MegatronSource(path, tiny_shape(**LLAMA))


def test_an_index_that_runs_code_is_refused_before_torch_sees_it(tmp_path: Path) -> None:
    path = saved(plain_gpt_model(tiny_shape(**LLAMA)), tmp_path / "gpt")
    (path / ".metadata").write_bytes(pickle.dumps(argparse.Namespace()))
    with pytest.raises(ArtifactError, match=r"cannot be read safely: it names argparse\.Namespace"):
        MegatronSource(path, tiny_shape(**LLAMA))


def test_a_damaged_file_is_named_by_the_tensor_that_needs_it(tmp_path: Path) -> None:
    path = saved(plain_gpt_model(tiny_shape(**LLAMA)), tmp_path / "gpt")
    for file in path.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"embedding\.word_embeddings\.weight cannot be read: "):
        filled(tiny_shape(**LLAMA), path)


def test_any_part_of_a_stored_tensor_can_be_read(tmp_path: Path) -> None:
    gpt = plain_gpt_model(tiny_shape(**LLAMA))
    tensors = StoredTensors(saved(gpt, tmp_path / "gpt"))
    weight = gpt.decoder.layers[1].self_attention.linear_proj.weight
    name = "decoder.layers.self_attention.linear_proj.weight"
    assert tensors.sizes[name] == (3, 16, 16)
    assert torch.equal(tensors.read(name, (slice(1, 2), slice(3, 9), slice(15, 16)))[0], weight[3:9, 15:16])
    with pytest.raises(ArtifactError, match="cannot be read: parts of it are missing"):
        tensors.read(name, (slice(1, 2), slice(3, 17), slice(0, 16)))
