"""`retro import-lora`: our model computes what peft does, with adapters that peft made or that we exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.errors import ConfigError, DataError
from retro.generate.adapter_check import probe
from retro.generate.loading import AdapterOptions, open_decoder
from retro.interop.export import export
from retro.interop.peft_export import CONFIG, WEIGHTS, export_adapters
from retro.interop.peft_import import _Adapter, fuse, import_adapters
from retro.model.convert.hf_layouts import Piece
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.convert import merge
from tests.interop.test_peft_export import GPT2, LLAMA, ours, theirs
from tests.model.convert.folders import make_folder
from tests.training.test_lora import adapted, made


def peft_folder(base: Path, out: Path, **settings: Any) -> Path:
    """Random adapters that peft itself wrote for a transformers model."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install instruct-retro[dev]")
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        peft.LoraConfig(task_type="CAUSAL_LM", **({"r": 3, "lora_alpha": 5} | settings)),
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(out)
    return out


def require_equal(folder: Path, adapters: Path, imported: Path) -> None:
    expected, plain = theirs(folder, adapters)
    torch.testing.assert_close(ours(imported), expected, rtol=1e-4, atol=2e-5)
    assert (plain - expected).abs().max() > 1e-2


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("family", "settings", "rank"),
    [
        ("llama, grouped queries", {"target_modules": ALL}, 9),
        ("llama, grouped queries", {"target_modules": ["q_proj", "v_proj"]}, 6),  # peft's default
        ("mistral, wide heads", {"target_modules": ["v_proj", "up_proj"], "use_rslora": True}, 3),
        ("llama, tied", {"target_modules": ALL, "rank_pattern": {"k_proj": 1, "layers.2.mlp.up_proj": 5}}, 8),
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}, 3),
        ("gpt2, untied", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}, 3),
    ],
)
def test_our_model_computes_what_peft_does(tmp_path: Path, family: str, settings: dict[str, Any], rank: int) -> None:
    make_folder(tmp_path / "folder", family)
    adapters = peft_folder(tmp_path / "folder", tmp_path / "adapters", **settings)
    import_adapters(adapters, tmp_path / "folder", tmp_path / "imported")
    info = checkpoint.read_info(tmp_path / "imported")
    assert info.adapters is not None
    assert info.adapters.rank == rank
    require_equal(tmp_path / "folder", adapters, tmp_path / "imported")


@pytest.mark.parametrize("model", [LLAMA, LLAMA | {"query_groups": 1, "qkv_bias": True}, GPT2])
def test_what_was_exported_comes_back_with_its_rank(tmp_path: Path, model: dict[str, Any]) -> None:
    base = made(tmp_path / "base", **model)
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **model)
    export_adapters(path, tmp_path / "adapters")
    import_adapters(tmp_path / "adapters", base, tmp_path / "imported")
    info = checkpoint.read_info(tmp_path / "imported")
    assert info.adapters is not None
    assert info.adapters.rank == 2
    torch.testing.assert_close(ours(tmp_path / "imported"), ours(path), rtol=1e-5, atol=1e-6)


def test_imported_adapters_are_served_apart_and_exported_again(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "llama, grouped queries")
    adapters = peft_folder(tmp_path / "folder", tmp_path / "adapters", target_modules=["q_proj", "v_proj"])
    import_adapters(adapters, tmp_path / "folder", tmp_path / "imported")
    others = {"theirs": checkpoint.read_info(tmp_path / "imported")}
    shared = open_decoder(tmp_path / "folder", ParallelConfig(), 0, options=AdapterOptions(others=others))
    merged = open_decoder(tmp_path / "imported", ParallelConfig(), 0)
    torch.testing.assert_close(probe(shared, "theirs"), probe(merged), rtol=1e-4, atol=1e-4)
    again = export_adapters(tmp_path / "imported", tmp_path / "again")
    torch.testing.assert_close(
        theirs(tmp_path / "folder", again)[0], theirs(tmp_path / "folder", adapters)[0], rtol=1e-4, atol=1e-4
    )


def test_bs_of_layers_with_their_own_a_have_columns_of_their_own() -> None:
    a, other = torch.tensor([[1.0, 2]]), torch.tensor([[3.0, 4], [5, 6]])
    found = {
        "q": _Adapter(a, torch.tensor([[1.0], [2]])),
        "k": _Adapter(a.clone(), torch.tensor([[3.0]])),
        "v": _Adapter(other, torch.tensor([[4.0, 5]])),
    }
    pieces = tuple(Piece(f"{name}.weight", *rows) for name, rows in
                   (("q", (0, 1)), ("k", (0, 1)), ("v", (0, 1)), ("q", (1, 2)), ("none", (0, 1))))  # fmt: skip
    fused = fuse(pieces, found)
    assert fused is not None
    assert fused.a_rI.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert fused.b_Or.tolist() == [[1, 0, 0], [3, 0, 0], [0, 4, 5], [2, 0, 0], [0, 0, 0]]
    assert fuse(pieces[-1:], found) is None


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a peft folder on it."""
    folder = tmp_path_factory.mktemp("exported")
    base = made(folder / "base", **LLAMA)
    path = adapted(folder / "out", base, steps=1, **LLAMA)
    return base, export_adapters(path, folder / "adapters")


def changed(adapters: Path, out: Path, **settings: Any) -> Path:
    shutil.copytree(adapters, out)
    known = json.loads((out / CONFIG).read_text())
    (out / CONFIG).write_text(json.dumps(known | settings))
    return out


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, r"has peft_type = 'IA3', which adapters here do not have"),
        ({"use_dora": True}, r"has use_dora = True"),
        ({"bias": "all"}, r"has bias = 'all'"),
        ({"alpha_pattern": {"q_proj": 3}}, r"has alpha_pattern = \{'q_proj': 3\}"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save = \['lm_head'\]"),
        ({"trainable_token_indices": [3]}, r"has trainable_token_indices = \[3\]"),
        ({"lora_alpha": "8"}, r"has lora_alpha = '8', not a number"),
    ],
)
def test_a_setting_that_computes_something_else_is_named(
    exported: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=rf"adapter_config\.json: {told}"):
        import_adapters(changed(exported[1], tmp_path / "changed", **settings), exported[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({f"{Q}B.weight": None}, r"holds \{'A': \[2, 16\]\} for model.layers.0.self_attn.q_proj, needed A of r x in"),
        ({f"{Q}B.weight": torch.zeros(16, 3)}, r"'B': \[16, 3\]\} for"),
        ({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, r"holds base_model.model.lm_head.weight, which is no"),
        ({f"{Q}B.weight": torch.zeros(8, 2)}, r"q_proj as a matrix of \[8, 16\], in .* it is \[16, 16\]"),
        ({f"{Q.replace('q_proj', 'x')}{part}.weight": torch.zeros(2, 2) for part in "AB"}, r"self_attn.x, which is no"),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_named(
    exported: tuple[Path, Path], tmp_path: Path, tensors: dict[str, torch.Tensor | None], told: str
) -> None:
    folder = changed(exported[1], tmp_path / "changed")
    known = load_file(folder / WEIGHTS) | tensors
    save_file({name: one for name, one in known.items() if one is not None}, folder / WEIGHTS)
    with pytest.raises(DataError, match=rf"adapter_model\.safetensors: .*{told}"):
        import_adapters(folder, exported[0], tmp_path / "out")


def test_a_damaged_or_empty_folder_is_named(exported: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"adapter_config\.json: is missing"):
        import_adapters(tmp_path, exported[0], tmp_path / "out")
    folder = changed(exported[1], tmp_path / "changed")
    save_file({}, folder / WEIGHTS)
    with pytest.raises(DataError, match="holds no adapters"):
        import_adapters(folder, exported[0], tmp_path / "out")
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot be read .*save_pretrained"):
        import_adapters(folder, exported[0], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"OUT = .*: needs a path where nothing is yet"):
        import_adapters(exported[1], exported[0], tmp_path)


def test_two_folders_of_one_name_are_two_checkpoints(exported: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapters = exported
    other = changed(adapters, tmp_path / "other/adapters")
    save_file({name: 2 * one for name, one in load_file(other / WEIGHTS).items()}, other / WEIGHTS)
    import_adapters(adapters, base, tmp_path / "one")
    import_adapters(other, base, tmp_path / "two")
    assert checkpoint.identity(tmp_path / "one") != checkpoint.identity(tmp_path / "two")


def test_the_command_writes_a_checkpoint(exported: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapters = exported
    done = CliRunner().invoke(app, ["import-lora", str(adapters), str(base), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    # The other commands take it as they take any checkpoint of adapters.
    merge(tmp_path / "out", tmp_path / "merged")
    assert torch.equal(ours(tmp_path / "merged"), ours(tmp_path / "out"))
    card = (export(tmp_path / "out", tmp_path / "exported", decoder_only=True) / "README.md").read_text()
    assert "converted from `adapters on step_00000001`" in card
