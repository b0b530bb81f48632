"""`start_from` takes what it is given: a checkpoint of ours, a HuggingFace folder, a megatron-core checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import DataError, TrainingError
from retro.model.config import ModelConfig, ModelShape
from retro.model.weight_names import is_retrieval
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.convert.folders import ROWS, make_folder
from tests.model.convert.test_megatron import LLAMA, plain_gpt_model, saved
from tests.model.tiny import CHUNK, tiny_inputs, tiny_shape
from tests.training.fake import CycleSource


def shape_of(folder: Path, **settings: Any) -> ModelShape:
    model = ModelConfig(size=str(folder), **({"vocabulary_multiple": 16, "first_cross_attention": 2} | settings))
    return ModelShape(model=model, vocabulary=ROWS, chunk_length=CHUNK)


def start(path: Path, shape: ModelShape, out: Path, **settings: Any) -> Any:
    """One step that moves nothing that can be seen, and the model that it saved."""
    usual = {"steps": 1, "lr": 1e-30, "warmup_steps": 0, "micro_batch": 2, "global_batch": 2, "precision": "float32"}
    config = TrainConfig(**(usual | settings))
    train(
        out=out,
        shape=shape,
        config=config,
        layout=ParallelConfig(),
        source=CycleSource(),
        validation=None,
        start_from=path,
    )
    return checkpoint.load_model(out)[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_starts_from_a_huggingface_folder(precision: str, tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "llama", "llama, grouped queries")
    model = start(tmp_path / "llama", shape_of(tmp_path / "llama"), tmp_path / "out", precision=precision)
    inputs = tiny_inputs(30)
    with torch.no_grad():
        expected, found = plain(inputs.tokens_BS).logits, model(*inputs.args())[..., :ROWS]
    # bfloat16 keeps 8 bits of each weight.
    tolerance = 1e-4 if precision == "float32" else 0.05 * expected.std().item()
    assert (found - expected).abs().mean() < tolerance


def test_a_run_with_the_decoder_frozen_keeps_the_folders_weights(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "gpt2", "gpt2")
    shape = shape_of(tmp_path / "gpt2", gate=1.0)
    config = TrainConfig(
        steps=3,
        lr=1e-2,
        warmup_steps=0,
        micro_batch=2,
        global_batch=2,
        train_only="retrieval",
        precision="float32",
        save_every=1,
        keep_last=3,
    )
    train(
        out=tmp_path / "out",
        shape=shape,
        config=config,
        layout=ParallelConfig(),
        source=CycleSource(),
        validation=None,
        start_from=tmp_path / "gpt2",
    )
    first, last = (checkpoint.load_model(checkpoint.find(tmp_path / "out", step))[0] for step in (1, 3))
    after = dict(last.named_parameters())
    changed = {name for name, value in first.named_parameters() if not torch.equal(value, after[name])}
    assert changed == {name for name in after if is_retrieval(name)}
    assert torch.equal(after["decoder.layers.2.mlp.linear_fc2.weight"], plain.transformer.h[2].mlp.c_proj.weight.T)


def test_a_run_starts_from_a_megatron_checkpoint(tmp_path: Path) -> None:
    shape = tiny_shape(**LLAMA, gate="learned")
    gpt = plain_gpt_model(shape)
    saved(gpt, tmp_path / "run" / "iter_0000007", fused=True)
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("7")
    model = start(tmp_path / "run", shape, tmp_path / "out")
    weights = dict(model.named_parameters())
    for name, value in gpt.named_parameters():
        expected = value[:50] if "embed" in name or "output" in name else value
        torch.testing.assert_close(weights[name], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm_epsilon": 1e-5}, r"model\.norm_epsilon is 0\.001 there, 1e-05 here"),
        ({"rope_base": 10_000}, r"model\.rope_base is 500 there, 10000 here"),
        ({"tied_embeddings": True}, r"model\.tied_embeddings is False there, True here"),
        ({"layers": 2}, r"model\.layers is 4 there, 2 here"),
    ],
)
def test_settings_that_are_not_the_folders_are_named(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    make_folder(tmp_path / "llama", "llama")
    with pytest.raises(TrainingError, match=words):
        start(tmp_path / "llama", shape_of(tmp_path / "llama", **settings), tmp_path / "out")


def test_another_tokenizer_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "llama", "llama")
    shape = shape_of(tmp_path / "llama").model_copy(update={"vocabulary": 40})
    with pytest.raises(TrainingError, match=r"tokens in the tokenizer is 50 there, 40 here.*the corpus its tokenizer"):
        start(tmp_path / "llama", shape, tmp_path / "out")


def test_a_sequence_beyond_the_sliding_window_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "mistral", "mistral")
    shape = shape_of(tmp_path / "mistral", sequence_length=128)
    with pytest.raises(TrainingError, match=r"model\.sequence_length is 128\. Set it to 64 or less"):
        start(tmp_path / "mistral", shape, tmp_path / "out")


def test_more_positions_than_the_folder_has_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "gpt2", "gpt2")
    shape = shape_of(tmp_path / "gpt2", sequence_length=128)
    with pytest.raises(TrainingError, match=r"position_embeddings\.weight is \[64, 32\] there, \[128, 32\] here"):
        start(tmp_path / "gpt2", shape, tmp_path / "out")


def test_what_holds_no_model_is_refused_with_what_would(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no model to start from. Give a checkpoint of this toolkit, a Hugging"):
        start(tmp_path, tiny_shape(), tmp_path / "out")
    with pytest.raises(DataError, match="missing: no such directory"):
        start(tmp_path / "missing", tiny_shape(), tmp_path / "out")
