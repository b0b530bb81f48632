"""Legacy Megatron checkpoints: what they compute is what our model computes after conversion, or they are refused."""

from __future__ import annotations

import pickle
import queue
from argparse import Namespace
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retro.common.errors import ArtifactError, ConfigError, DataError, TrainingError
from retro.model.config import ModelShape
from retro.model.convert.legacy import LegacyCheckpoint, is_legacy
from retro.model.model import RetroModel
from retro.model.weight_names import is_retrieval
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.convert import convert
from retro.training.loop import train
from tests.model.convert.legacy_megatron import (
    CHUNK,
    GPT,
    INSTRUCT_RETRO,
    VOCABULARY,
    LegacyModel,
    changed,
    random_weights,
    write,
)
from tests.training.fake import CycleSource

MODELS: dict[str, Namespace] = {
    "instructretro": INSTRUCT_RETRO,
    "squared relu": changed(INSTRUCT_RETRO, swiglu=False, squared_relu=True, ffn_hidden_size=32),
    "learned positions, tanh gelu, biases": changed(
        INSTRUCT_RETRO,
        swiglu=False,
        bias_gelu_fusion=True,
        add_bias_linear=True,
        apply_layernorm_1p=False,
        add_position_embedding=True,
        use_rotary_position_embeddings=False,
        position_embedding_type="learned_absolute",
        untie_embeddings_and_output_weights=False,
    ),
    "half a gate, one encoder layer": changed(INSTRUCT_RETRO, retro_attention_gate=0.5, retro_encoder_layers=1),
    "gpt, grouped queries": GPT,
    "gpt, exact gelu": changed(GPT, bias_gelu_fusion=False, group_query_attention=False),
}


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens_S = torch.randint(0, VOCABULARY, (4 * CHUNK,), generator=generator)
    return tokens_S, torch.randint(0, VOCABULARY, (4, 2, 2 * CHUNK), generator=generator)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("args", MODELS.values(), ids=MODELS.keys())
def test_a_converted_checkpoint_computes_what_the_legacy_model_computes(
    args: Namespace, ranks: int, tmp_path: Path
) -> None:
    if args.group_query_attention and ranks > args.num_query_groups:
        ranks = args.num_query_groups  # Megatron never spreads one group over ranks
    weights = random_weights(args)
    convert(write(tmp_path / "legacy", args, weights, ranks), tmp_path / "ours")
    model, info = checkpoint.load_model(tmp_path / "ours")
    tokens_S, neighbors_LKR = inputs()
    retrieves = args.retro_add_retriever
    expected = LegacyModel(args, weights)(tokens_S, neighbors_LKR if retrieves else None)
    neighbors = (neighbors_LKR[None], torch.ones(1, *neighbors_LKR.shape, dtype=torch.bool)) if retrieves else ()
    with torch.no_grad():
        found = model(tokens_S[None], *neighbors)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
    assert info.step == 0


def train_a_step(shape: ModelShape, start: Path, out: Path) -> RetroModel:
    """What a run saves after one step that moves nothing that can be seen."""
    train(
        out=out,
        shape=shape,
        config=TrainConfig(steps=1, warmup_steps=0, lr=1e-30, micro_batch=2, global_batch=2, precision="float32"),
        layout=ParallelConfig(),
        source=CycleSource(),
        validation=None,
        start_from=start,
    )
    return checkpoint.load_model(out)[0]


@pytest.mark.parametrize("args", [INSTRUCT_RETRO, GPT], ids=["retro", "gpt"])
def test_a_run_starts_from_a_converted_checkpoint_and_from_the_folder_itself(args: Namespace, tmp_path: Path) -> None:
    shape = convert(write(tmp_path / "legacy", args, random_weights(args), 2), tmp_path / "ours")
    expected = dict(checkpoint.load_model(tmp_path / "ours")[0].named_parameters())
    for name in ("ours", "legacy"):
        found = train_a_step(shape, tmp_path / name, tmp_path / f"from_{name}")
        for weight, value in found.named_parameters():
            torch.testing.assert_close(value, expected[weight])


def test_a_retro_starts_from_a_legacy_gpt_with_fresh_retrieval(tmp_path: Path) -> None:
    args = changed(GPT, group_query_attention=False)
    legacy = LegacyCheckpoint(write(tmp_path / "legacy", args, random_weights(args), 2))
    settings = {"retrieval": True, "first_cross_attention": 2, "cross_attention_every": 1, "gate": "learned"}
    shape = legacy.shape.model_copy(update={"model": legacy.shape.model.model_copy(update=settings)})
    found = dict(train_a_step(shape, tmp_path / "legacy", tmp_path / "run").named_parameters())
    assert any(is_retrieval(name) for name in found)
    for name in legacy.names:
        torch.testing.assert_close(found[name], legacy.read(name))


def test_a_run_of_another_architecture_does_not_start_from_a_legacy_folder(tmp_path: Path) -> None:
    legacy = LegacyCheckpoint(write(tmp_path / "legacy", INSTRUCT_RETRO, random_weights(INSTRUCT_RETRO), 2))
    shape = legacy.shape.model_copy(update={"model": legacy.shape.model.model_copy(update={"encoder_rope": True})})
    with pytest.raises(TrainingError, match=r"legacy: is another architecture: model\.encoder_rope is False there"):
        train_a_step(shape, tmp_path / "legacy", tmp_path / "run")


def test_the_settings_come_from_args_and_weights(tmp_path: Path) -> None:
    args = changed(INSTRUCT_RETRO, retro_attention_gate=0.0, vocab_size=61, hidden_dropout=0.1)
    shape = LegacyCheckpoint(write(tmp_path, args, random_weights(args), 2)).shape
    model = shape.model
    assert (model.layers, model.hidden_size, model.heads, model.query_groups, model.ffn_hidden_size) == (
        9,
        16,
        4,
        4,
        24,
    )
    assert (model.cross_attention_layers, model.encoder_layers, model.neighbors, model.gate) == ((6, 9), 2, 2, 0.0)
    assert (model.encoder_rope, model.cross_rope, model.rope_percent, model.positions) == (False, False, 0.5, "rope")
    assert (model.activation, model.zero_centered_norm, model.bias, model.tied_embeddings) == (
        "swiglu",
        True,
        False,
        False,
    )
    assert (model.sequence_length, model.dropout, model.encoder_dropout, model.init_std) == (16, 0.1, 0.1, 0.007)
    assert (shape.vocabulary, shape.padded_vocabulary, shape.chunk_length, shape.retrieved_length) == (61, 64, 4, 8)


def test_a_chunk_length_that_is_not_recorded_is_the_published_one_or_the_one_given(tmp_path: Path) -> None:
    args = changed(INSTRUCT_RETRO)
    del args.retro_chunk_length
    folder = write(tmp_path / "legacy", args, random_weights(args), 1)
    assert LegacyCheckpoint(folder).shape.chunk_length == 64
    shape = convert(folder, tmp_path / "ours", chunk_length=4, vocabulary=50)
    assert (shape.chunk_length, shape.vocabulary, shape.padded_vocabulary) == (4, 50, 64)
    assert checkpoint.read_info(tmp_path / "ours").shape == shape


def test_the_size_of_the_table_with_the_same_numbers_is_named(tmp_path: Path) -> None:
    args = changed(INSTRUCT_RETRO, num_layers=48, hidden_size=8192, num_attention_heads=64, kv_channels=128)
    small = random_weights(INSTRUCT_RETRO)  # the table is looked up by args alone
    args.retro_add_retriever = False
    kept = {name: value for name, value in small.items() if "inter_attention" not in name and "retriever" not in name}
    model = LegacyCheckpoint(write(tmp_path, args, kept, 1)).shape.model
    assert (model.size, model.layers, model.retrieval) == ("43b", 48, False)


def test_any_part_of_any_weight_can_be_read(tmp_path: Path) -> None:
    weights = random_weights(INSTRUCT_RETRO)
    one = LegacyCheckpoint(write(tmp_path / "one", INSTRUCT_RETRO, weights, 1))
    four = LegacyCheckpoint(write(tmp_path / "four", INSTRUCT_RETRO, weights, 4))
    for name in one.names:
        size = one.size(name)
        assert size is not None
        assert four.size(name) == size == tuple(one.read(name).shape)
        for first in range(3):
            part = tuple(slice(first, length - first) for length in size)
            assert torch.equal(four.read(name, part), one.read(name)[part])
    assert one.size("decoder.layers.9.input_layernorm.weight") is None


def test_older_keys_say_layernorm(tmp_path: Path) -> None:
    weights = random_weights(INSTRUCT_RETRO)
    older = {name.replace("norm.", "layernorm."): value for name, value in weights.items()}
    new = LegacyCheckpoint(write(tmp_path / "new", INSTRUCT_RETRO, weights, 1))
    old = LegacyCheckpoint(write(tmp_path / "old", INSTRUCT_RETRO, older, 1))
    assert sorted(new.names) == sorted(old.names)
    assert old.shape == new.shape
    name = "decoder.layers.5.pre_cross_attn_layernorm.weight"
    assert torch.equal(old.read(name), weights["encoder.layers.5.post_attention_norm.weight"])
    assert torch.equal(old.read(name), new.read(name))


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    weights = {name: value.bfloat16() for name, value in random_weights(INSTRUCT_RETRO).items()}
    convert(write(tmp_path / "legacy", INSTRUCT_RETRO, weights, 2), tmp_path / "ours")
    model, _ = checkpoint.load_model(tmp_path / "ours", bfloat16=True)
    found = dict(model.named_parameters())["decoder.layers.8.mlp.linear_fc1.weight"]
    assert torch.equal(found, weights["encoder.layers.8.mlp.dense_h_to_4h.weight"])


def test_the_newest_iteration_is_taken_where_it_is_not_a_release(tmp_path: Path) -> None:
    write(tmp_path, INSTRUCT_RETRO, random_weights(INSTRUCT_RETRO), 1)
    (tmp_path / "release").rename(tmp_path / "iter_0001000")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1000\n")
    assert is_legacy(tmp_path)
    assert len(LegacyCheckpoint(tmp_path).names) == len(random_weights(INSTRUCT_RETRO))


# What may be in such a file, and what may not.


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with torch.serialization.safe_globals([Namespace]):
        data = torch.load(file, weights_only=True)
    change(data)
    torch.save(data, file)


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """A good checkpoint of two ranks."""
    return write(tmp_path / "legacy", INSTRUCT_RETRO, random_weights(INSTRUCT_RETRO), 2)


def file_of(folder: Path, rank: int) -> Path:
    return folder / f"release/mp_rank_{rank:02d}/model_optim_rng.pt"


def encoder(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["model"]["language_model"]["encoder"]
    return found


def test_random_states_optimizer_and_extra_states_are_passed_over(legacy: Path) -> None:
    def add(data: dict[str, Any]) -> None:
        state = np.random.default_rng(1).bit_generator.state
        data["rng_state"] = [{"np_rng_state": ("MT19937", np.arange(624, dtype=np.uint32), 3, 0, 0.0)}]
        data["opt_param_scheduler"] = {"num_steps": 10, "state": str(state)}
        encoder(data)["layers.0.self_attention._extra_state"] = torch.zeros(1)

    for rank in (0, 1):
        edit(file_of(legacy, rank), add)
    assert len(LegacyCheckpoint(legacy).names) == len(random_weights(INSTRUCT_RETRO))


def test_megatron_s_own_type_in_args_is_passed_over(legacy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the release that saved the checkpoint: this one's ModelType has no Retro any more.
    model_type = Enum("ModelType", {"retro_decoder": 4}, module="megatron.core.enums")  # type: ignore[misc]
    # As Enum itself does it, unless a library that was imported before gave it another way.
    monkeypatch.setattr(model_type, "__reduce_ex__", lambda self, _: (type(self), (self._value_,)), raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("megatron.core.enums.ModelType", model_type)
        for rank in (0, 1):
            edit(file_of(legacy, rank), lambda data: setattr(data["args"], "model_type", model_type(4)))
    assert LegacyCheckpoint(legacy).shape.model.layers == 9


class Malicious:
    """Unpickling this leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(legacy: Path, tmp_path: Path) -> None:
    edit(file_of(legacy, 1), lambda data: data.update(iteration=Malicious(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"mp_rank_01/model_optim_rng\.pt: cannot be read safely: it names __builtin__"):
        LegacyCheckpoint(legacy)
    assert not (tmp_path / "ran").exists()
    # The same file does run its code when it is read without care, so the test would notice.
    torch.load(file_of(legacy, 1), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_and_does_not_run(legacy: Path, tmp_path: Path) -> None:
    file_of(legacy, 0).write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    with pytest.raises(DataError, match="it is cut short or not a torch file"):
        LegacyCheckpoint(legacy)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_cut_short_is_refused(legacy: Path) -> None:
    file = file_of(legacy, 1)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"mp_rank_01/model_optim_rng\.pt: cannot be read safely: it is cut short"):
        LegacyCheckpoint(legacy)


def test_a_missing_rank_is_named(legacy: Path) -> None:
    file_of(legacy, 0).unlink()
    with pytest.raises(DataError, match=r"mp_rank_00/model_optim_rng\.pt: is missing; there is mp_rank_00, mp_rank_01"):
        LegacyCheckpoint(legacy)


def test_the_last_rank_is_missed_by_the_args(legacy: Path) -> None:
    file_of(legacy, 1).unlink()
    file_of(legacy, 1).parent.rmdir()
    with pytest.raises(DataError, match=r"release: holds 1 ranks, needs the 2 of its args"):
        LegacyCheckpoint(legacy)


def test_no_rank_at_all_is_said(legacy: Path) -> None:
    (legacy / "release").rename(legacy / "elsewhere")
    assert is_legacy(legacy)
    with pytest.raises(DataError, match=r"mp_rank_00/model_optim_rng\.pt: is missing; there is no rank at all"):
        LegacyCheckpoint(legacy)


def test_pipeline_stages_are_refused(legacy: Path) -> None:
    file_of(legacy, 0).parent.rename(legacy / "release/mp_rank_00_000")
    with pytest.raises(DataError, match=r"is spread over pipeline stages \(mp_rank_00_000\)\. Merge the stages first"):
        LegacyCheckpoint(legacy)


def test_a_folder_without_its_tracker_is_no_checkpoint(legacy: Path) -> None:
    tracker = legacy / "latest_checkpointed_iteration.txt"
    tracker.write_text("latest")
    with pytest.raises(DataError, match="says 'latest', needs 'release' or the number of an iteration"):
        LegacyCheckpoint(legacy)
    tracker.unlink()
    assert not is_legacy(legacy)
    with pytest.raises(DataError, match="is missing or cannot be read"):
        LegacyCheckpoint(legacy)


NORM, DENSE = "layers.3.input_norm.weight", "layers.3.self_attention.dense.weight"
EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unequal parts": (
        lambda data: encoder(data).update({DENSE: torch.zeros(16, 9)}),
        r"mp_rank_01/.*dense\.weight has shape \(16, 9\), and \(16, 8\) in mp_rank_00: the ranks' parts must be equal",
    ),
    "copies that differ": (
        lambda data: encoder(data).update({NORM: torch.zeros(16)}),
        r"input_norm\.weight differs from mp_rank_00's, though no rank has a part of it",
    ),
    "a weight less": (
        lambda data: encoder(data).pop(NORM),
        r"has other weights than mp_rank_00: 1 differ, encoder\.layers\.3\.input_norm\.weight the first",
    ),
    "no model": (lambda data: data.pop("model"), "holds no model; needs one model"),
    "two models": (lambda data: data.update(model0={}), "holds model0; needs one model"),
    "another kind of model": (
        lambda data: data["model"].update(lm_head={"dense": torch.zeros(1)}),
        r"its model holds lm_head\.dense, needs the weights of a language_model and nothing else",
    ),
    "a value that is not a weight": (
        lambda data: encoder(data).update({"layers.0.scale": 3.0}),
        r"its model holds language_model\.encoder\.layers\.0\.scale",
    ),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS.keys())
def test_ranks_that_do_not_fit_together_are_refused(
    legacy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(file_of(legacy, 1), change)
    with pytest.raises(DataError, match=message):
        LegacyCheckpoint(legacy)


BOTH: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown weight": (
        lambda data: encoder(data).update({"layers.0.alibi.weight": torch.zeros(1)}),
        r"holds 1 weights that no legacy GPT or Retro has, encoder\.layers\.0\.alibi\.weight the first",
    ),
    "a pooler": (
        lambda data: data["model"]["language_model"].update(pooler={"dense.weight": torch.zeros(1)}),
        r"holds 1 weights that no legacy GPT or Retro has, pooler\.dense\.weight the first",
    ),
    "no embedding": (
        lambda data: data["model"]["language_model"].pop("embedding"),
        r"lacks embedding\.word_embeddings\.weight, which holds the vocabulary",
    ),
    "no args": (lambda data: data.pop("args"), "holds no args, which the model's shape is read from"),
    "an old version": (
        lambda data: data.update(checkpoint_version=1.0),
        r"is of checkpoint version 1\.0, needs 2 or 3",
    ),
}


@pytest.mark.parametrize(("change", "message"), BOTH.values(), ids=BOTH.keys())
def test_what_is_not_known_is_refused_and_never_dropped(
    legacy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    for rank in (0, 1):
        edit(file_of(legacy, rank), change)
    with pytest.raises(DataError, match=message):
        LegacyCheckpoint(legacy)


def test_something_other_than_a_dictionary_is_refused(legacy: Path) -> None:
    torch.save([1, 2], file_of(legacy, 0))
    with pytest.raises(DataError, match="holds a list, needs a dictionary"):
        LegacyCheckpoint(legacy)


ARGS: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"num_experts": 8}, "was trained with num_experts = 8, needs None"),
    "interleaved rotary": ({"rotary_interleaved": True}, "was trained with rotary_interleaved = True, needs False"),
    "wide heads": ({"kv_channels": 8}, "has heads of width 8, needs hidden_size / num_attention_heads = 4"),
    "no layers": ({"num_layers": None}, "its args have no num_layers"),
    "alibi": (
        {"use_rotary_position_embeddings": False, "position_embedding_type": "alibi"},
        "has positions 'alibi', needs rotary or learned absolute ones",
    ),
    "gap": ({"num_layers": 12}, "reads neighbors in layers 6, 9, which are not evenly spaced to the last"),
}


@pytest.mark.parametrize(("settings", "message"), ARGS.values(), ids=ARGS.keys())
def test_a_model_that_computes_something_else_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    weights = random_weights(INSTRUCT_RETRO)
    folder = write(tmp_path / "legacy", changed(INSTRUCT_RETRO, **settings), weights, 1)
    with pytest.raises(DataError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "narrow": (
        {"ffn_hidden_size": 20},
        r"linear_fc1\.weight is \[48, 16\] there, \[40, 16\] in the model that its args describe",
    ),
    "tied": ({"untie_embeddings_and_output_weights": False}, r"output_layer\.weight is \[64, 16\] there, missing in"),
    "biased": (
        {"add_bias_linear": True, "bias_gelu_fusion": False},
        r"linear_fc1\.bias is missing there, \[48\] in the model",
    ),
}


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_args_that_contradict_the_weights_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights = random_weights(INSTRUCT_RETRO)
    folder = write(tmp_path / "legacy", changed(INSTRUCT_RETRO, **settings), weights, 1)
    with pytest.raises(DataError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_nothing_is_overwritten_and_no_vocabulary_beyond_the_embedding(legacy: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    with pytest.raises(ConfigError, match=r"OUT = '.*ours': needs a path where nothing is yet"):
        convert(legacy, tmp_path / "ours")
    with pytest.raises(ConfigError, match="--vocabulary = 65: needs at most the 64 rows of the embedding"):
        convert(legacy, tmp_path / "other", vocabulary=65)


def test_a_full_disk_leaves_nothing_behind(legacy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, number: int, bucket: object, results: queue.Queue[object], *__: object) -> None:
        results.put((number, OSError(28, "No space left on device")))

    monkeypatch.setattr("retro.mcore.checkpoint.FileSystemWriterAsync.write_preloaded_data", full)
    with pytest.raises(ArtifactError, match="ours: the disk is full"):
        convert(legacy, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["legacy"]


def test_another_chunk_length_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "legacy", INSTRUCT_RETRO, random_weights(INSTRUCT_RETRO), 1)
    with pytest.raises(ConfigError, match=r"--chunk-length = 8: needs to be absent or 4, which it was trained with"):
        convert(folder, tmp_path / "ours", chunk_length=8)
    assert convert(folder, tmp_path / "ours", chunk_length=4).chunk_length == 4
