"""`retro export-lora`: peft computes on the exported base what our adapted model computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.errors import ArtifactError, ConfigError, TrainingError
from retro.interop.export import export
from retro.interop.peft_export import CONFIG, WEIGHTS, export_adapters, target_names
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.convert.source import AddedTokens
from retro.model.weight_names import EMBEDDING, OUTPUT
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.convert.folders import make_folder
from tests.model.tiny import VOCABULARY
from tests.parallel.launch import launch
from tests.training.fake import CycleSource
from tests.training.test_added_tokens import NEW, grown
from tests.training.test_init_from import shape_of
from tests.training.test_loop import SETTINGS
from tests.training.test_lora import LORA, adapted, made

LLAMA: dict[str, Any] = {
    "retrieval": False, "query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm", "rope_percent": 1.0,
}  # fmt: skip
GPT2: dict[str, Any] = {"retrieval": False, "positions": "learned", "tied_embeddings": True, "bias": True}
MODELS: dict[str, dict[str, Any]] = {
    "llama, two query groups": LLAMA,
    "llama, one query group": LLAMA | {"query_groups": 1, "tied_embeddings": True},
    "llama, heads of their own": LLAMA | {"query_groups": 4},
    "llama, biases": LLAMA | {"bias": True, "zero_centered_norm": True},
    "qwen2": LLAMA | {"qkv_bias": True},
    "qwen3": LLAMA | {"qk_norm": True},
    "gpt2": GPT2,
}
TOKENS = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY


def ours(path: Path, tokens: Tensor = TOKENS) -> Tensor:
    model, info = checkpoint.load_model(path)
    with torch.no_grad():
        return model(tokens)[..., : info.shape.vocabulary]


def theirs(base: Path, adapters: Path, tokens: Tensor = TOKENS, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits of the transformers model with the adapters, and without."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install instruct-retro[dev]")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if rows is not None:
        model.resize_token_embeddings(rows)
    with torch.no_grad():
        plain = model(tokens).logits
        return peft.PeftModel.from_pretrained(model, adapters).eval()(tokens).logits, plain


def require_equal(base: Path, path: Path, adapters: Path) -> None:
    found, plain = theirs(base, adapters)
    expected = ours(path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert (plain - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", list(MODELS))
def test_peft_computes_what_our_adapted_model_does(tmp_path: Path, name: str) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **MODELS[name])
    exported = export(base, tmp_path / "exported", decoder_only=True)
    require_equal(exported, path, export_adapters(path, tmp_path / "adapters"))


@pytest.mark.parametrize(
    ("model", "targets", "expected"),
    [
        (LLAMA, ["linear_qkv"], ["k_proj", "q_proj", "v_proj"]),
        (LLAMA, ["linear_fc1", "linear_proj"], ["gate_proj", "o_proj", "up_proj"]),
        (LLAMA, ["linear_fc2"], ["down_proj"]),
        (GPT2, ["linear_proj"], ["attn.c_proj"]),  # the feed-forward layer has a c_proj too
        (GPT2, ["linear_proj", "linear_fc2"], ["c_proj"]),
    ],
)
def test_only_the_adapted_layers_are_targets(
    tmp_path: Path, model: dict[str, Any], targets: list[str], expected: list[str]
) -> None:
    base = made(tmp_path / "base", **model)
    path = adapted(tmp_path / "out", base, LORA | {"targets": targets}, steps=3, lr=0.1, **model)
    out = export_adapters(path, tmp_path / "adapters")
    assert json.loads((out / CONFIG).read_text())["target_modules"] == expected
    require_equal(export(base, tmp_path / "exported", decoder_only=True), path, out)


def test_an_end_of_a_name_is_taken_only_where_no_other_layer_has_it() -> None:
    every = ["a.0.x.proj", "a.0.y.proj", "a.1.x.proj", "a.1.y.proj", "a.0.up", "a.1.up"]
    assert target_names(["a.0.up", "a.1.up"], every) == ["up"]
    assert target_names(["a.0.x.proj", "a.1.x.proj"], every) == ["x.proj"]
    assert target_names(["a.1.x.proj"], every) == ["1.x.proj"]


def test_queries_keys_and_values_share_a_and_have_their_rows_of_b(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **LLAMA)
    path = adapted(tmp_path / "out", base, LORA | {"targets": ["linear_qkv"]}, steps=2, lr=0.1, **LLAMA)
    stored = StoredTensors(path)
    b_OR = stored.read("decoder.layers.0.self_attention.linear_qkv.lora_b", (slice(0, 32), slice(0, 2)))
    found = load_file(export_adapters(path, tmp_path / "adapters") / WEIGHTS)
    at = "base_model.model.model.layers.0.self_attn."
    # Two groups of two heads of width 4: queries 0-7, key 8-11, value 12-15 of the first, then those of the second.
    rows = {
        "q": [*range(8), *range(16, 24)],
        "k": [*range(8, 12), *range(24, 28)],
        "v": [*range(12, 16), *range(28, 32)],
    }
    for part, wanted in rows.items():
        assert torch.equal(found[f"{at}{part}_proj.lora_B.weight"], b_OR[wanted])
        assert torch.equal(found[f"{at}{part}_proj.lora_A.weight"], found[f"{at}q_proj.lora_A.weight"])


def test_settings_are_those_of_the_training(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **LLAMA)
    lora = {"rank": 3, "alpha": 7.5, "dropout": 0.25}
    path = adapted(tmp_path / "out", base, lora, steps=1, **LLAMA)
    out = export_adapters(path, tmp_path / "adapters", base_model="lab/base", dtype="bfloat16")
    settings = json.loads((out / CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (3, 7.5, 0.25)
    assert settings["base_model_name_or_path"] == "lab/base"
    assert {one.dtype for one in load_file(out / WEIGHTS).values()} == {torch.bfloat16}
    assert '"lab/base"' in (out / "README.md").read_text().replace("'", '"')


def from_folder(folder: Path, out: Path, new: int = 0) -> Path:
    """Adapters trained on a HuggingFace folder, with rows for `new` more tokens."""
    shape = known = shape_of(folder, sequence_length=16, retrieval=False, vocabulary_multiple=1)
    added = None
    if new:
        shape, added = grown(known), AddedTokens(shape=known, known=VOCABULARY)
    config = TrainConfig(**(SETTINGS | {"lora": LORA, "steps": 3, "lr": 0.1, "warmup_steps": 0}))
    train(
        out=out, shape=shape, config=config, layout=ParallelConfig(), source=CycleSource(), validation=None,
        start_from=folder, added=added,
    )  # fmt: skip
    return checkpoint.find(out)


@pytest.mark.parametrize("family", ["llama, grouped queries", "mistral, wide heads", "phi3", "qwen3", "gpt2, untied"])
def test_adapters_of_a_huggingface_folder_fit_that_folder(tmp_path: Path, family: str) -> None:
    make_folder(tmp_path / "folder", family)
    path = from_folder(tmp_path / "folder", tmp_path / "out")
    out = export_adapters(path, tmp_path / "adapters")
    require_equal(tmp_path / "folder", path, out)
    assert json.loads((out / CONFIG).read_text())["base_model_name_or_path"] == str(tmp_path / "folder")


@pytest.mark.parametrize("family", ["llama, grouped queries", "llama, tied", "gpt2, untied"])
def test_rows_of_added_tokens_come_along(tmp_path: Path, family: str) -> None:
    make_folder(tmp_path / "folder", family)
    path = from_folder(tmp_path / "folder", tmp_path / "out", NEW)
    out = export_adapters(path, tmp_path / "adapters")
    tokens = torch.tensor([[1, VOCABULARY, 5, VOCABULARY + 2, 9]])
    found, plain = theirs(tmp_path / "folder", out, tokens, rows=VOCABULARY + NEW)
    expected = ours(path, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert (plain - expected)[..., VOCABULARY:].abs().max() > 1e-2
    listed = json.loads((out / CONFIG).read_text())["trainable_token_indices"]
    assert set(map(tuple, listed.values())) == {tuple(range(VOCABULARY, VOCABULARY + NEW))}
    assert len(listed) == (1 if "tied" in family and "untied" not in family else 2)
    assert f"resize_token_embeddings({VOCABULARY + NEW})" in (out / "README.md").read_text()


def test_known_rows_are_not_listed_though_training_rounded_them(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **LLAMA)
    info = checkpoint.read_info(base)
    config = TrainConfig(
        **(SETTINGS | {"lora": LORA, "steps": 2, "lr": 0.1, "warmup_steps": 0, "precision": "bfloat16"})
    )
    train(
        out=tmp_path / "out", shape=grown(info.shape), config=config, layout=ParallelConfig(), source=CycleSource(),
        validation=None, start_from=base, added=AddedTokens(shape=info.shape, known=VOCABULARY),
    )  # fmt: skip
    path = checkpoint.find(tmp_path / "out")
    assert {EMBEDDING, OUTPUT} <= set(StoredTensors(path).sizes)
    out = export_adapters(path, tmp_path / "adapters")
    listed = json.loads((out / CONFIG).read_text())["trainable_token_indices"]
    new = list(range(VOCABULARY, VOCABULARY + NEW))
    assert listed == {"embed_tokens": new, "lm_head": new}


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2}])
def test_adapters_that_ranks_shared_are_exported_by_one_process(tmp_path: Path, layout: dict[str, int]) -> None:
    model = LLAMA | {"layers": 4, "vocabulary_multiple": 2}
    base, out = tmp_path / "base", tmp_path / "out"
    launch(1, [{"out": str(base), "layout": {}, "model": model, "settings": {"steps": 1}}], tmp_path / "1")
    settings = {"steps": 2, "save_every": 2, "lr": 0.1, "warmup_steps": 0, "lora": LORA}
    shared = {"out": str(out), "start": str(base), "layout": layout, "model": model, "settings": settings}
    launch(2, [shared], tmp_path / "2")
    exported = export(base, tmp_path / "exported", decoder_only=True)
    require_equal(exported, checkpoint.find(out), export_adapters(out, tmp_path / "adapters"))


RETRO = LLAMA | {"retrieval": True}


def test_adapters_that_read_neighbors_are_refused_by_name_or_left_out(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **RETRO)
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **RETRO)
    with pytest.raises(TrainingError, match=r"tensors there, decoder.layers.1.cross_attention.encoder.* no place for"):
        export_adapters(path, tmp_path / "adapters")
    out = export_adapters(path, tmp_path / "adapters", decoder_only=True)
    require_equal(export(base, tmp_path / "exported", decoder_only=True), path, out)


def test_adapters_of_cross_attention_alone_leave_nothing_to_export(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **RETRO)
    path = adapted(tmp_path / "out", base, LORA | {"where": "retrieval"}, steps=1, **RETRO)
    with pytest.raises(TrainingError, match="adapts no layer of the decoder"):
        export_adapters(path, tmp_path / "adapters", decoder_only=True)
    assert not (tmp_path / "adapters").exists()


def test_what_no_family_computes_or_holds_no_adapters_is_refused(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **LLAMA)
    with pytest.raises(ArtifactError, match=r"holds a whole model, no adapters\. `retro export` writes it"):
        export_adapters(base, tmp_path / "adapters")
    with pytest.raises(ConfigError, match=r"--dtype = 'int8': needs float32 or bfloat16"):
        export_adapters(base, tmp_path / "adapters", dtype="int8")
    with pytest.raises(ConfigError, match=r"OUT = .*: needs a folder that does not exist yet, or is empty"):
        export_adapters(base, base)
    mixed = LLAMA | {"normalization": "LayerNorm"}
    path = adapted(tmp_path / "out", made(tmp_path / "mixed", **mixed), steps=1, **mixed)
    with pytest.raises(ConfigError, match="in the way of Llama: normalization = LayerNorm"):
        export_adapters(path, tmp_path / "adapters")


def test_modules_trained_beside_adapters_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base", **LLAMA), steps=1, **LLAMA)
    inside = StoredTensors.__init__

    def with_module(stored: Any, directory: Path) -> None:
        inside(stored, directory)
        stored.sizes["added_encoder.weight"] = (2, 2)

    monkeypatch.setattr(StoredTensors, "__init__", with_module)
    with pytest.raises(
        TrainingError, match=r"holds 1 tensors .*, added_encoder.weight the first, and peft has no place"
    ):
        export_adapters(path, tmp_path / "adapters")


def test_the_command_writes_the_folder(tmp_path: Path) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base", **LLAMA), steps=1, **LLAMA)
    done = CliRunner().invoke(app, ["export-lora", str(path), str(tmp_path / "adapters"), "--base-model", "lab/base"])
    assert done.exit_code == 0, done.output
    assert sorted(one.name for one in (tmp_path / "adapters").iterdir()) == ["README.md", CONFIG, WEIGHTS]
