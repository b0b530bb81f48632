"""A run whose tuning trains adapters: every later stage takes the checkpoint as if it held a whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from retro.interop.export import export
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.run.pipeline import stage
from retro.training import checkpoint
from retro.training.convert import merge
from tests.interop.test_modeling import load
from tests.tiny_road import run_stages, small_config

LORA = ("sft.train.lora={rank: 2, where: all}", "sft.train.lr=0.05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, tuned by adapters and asked."""
    folder = tmp_path_factory.mktemp("adapted")
    config = small_config(folder, *LORA)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft", "generate")
    return folder


def tuned(folder: Path) -> Path:
    return checkpoint.find(folder / "run/6_sft/retro-topics_pp1_same_format_ctx1_tiny_4_0.05_lora2")


def test_the_tuned_checkpoint_is_of_adapters_and_small(folder: Path) -> None:
    stored = [name for name in StoredTensors(tuned(folder)).sizes if not name.startswith("optimizer.")]
    assert stored
    assert all(map(is_adapter, stored))


def test_a_merged_checkpoint_gives_the_same_answers(folder: Path, tmp_path: Path) -> None:
    merge(folder / "run/6_sft/retro-topics_pp1_same_format_ctx1_tiny_4_0.05_lora2", tmp_path / "merged")
    config = small_config(folder, *LORA, f"generate.checkpoint={tmp_path}/merged", "generate.name=merged")
    run_stages(config, "generate")
    for setting in ("with_passages", "closed_book"):
        of_adapters, of_merged = (
            [json.loads(line)["prediction"] for line in (path / f"{setting}.jsonl").read_text().splitlines()]
            for path in (folder / "run/7_generate", stage("generate").path(config))
        )
        assert of_merged == of_adapters
        assert len(of_adapters) == 10


def test_adapters_kept_apart_give_the_same_answers(folder: Path) -> None:
    config = small_config(folder, *LORA, "generate.separate_adapters=true", "generate.name=apart")
    run_stages(config, "generate")
    for setting in ("with_passages", "closed_book"):
        merged, apart = (
            [json.loads(line)["prediction"] for line in (path / f"{setting}.jsonl").read_text().splitlines()]
            for path in (folder / "run/7_generate", stage("generate").path(config))
        )
        assert apart == merged
        assert len(merged) == 10


def test_the_finished_stage_may_be_named_in_place_of_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    merge(folder / "run/6_sft", tmp_path / "of_stage")
    merge(tuned(folder), tmp_path / "of_checkpoint")
    assert checkpoint.identity(tmp_path / "of_stage") == checkpoint.identity(tmp_path / "of_checkpoint")


def test_an_export_has_the_merged_weights_and_says_what_was_trained(folder: Path, tmp_path: Path) -> None:
    out = export(tuned(folder), tmp_path / "out")
    expected, _ = checkpoint.load_model(tuned(folder))
    exported = dict(load(out).named_parameters())
    checked = 0
    for name, weight in expected.named_parameters():
        found = next((one for key, one in exported.items() if key.endswith(name)), None)
        if found is not None and found.shape == weight.shape:
            assert torch.equal(found, weight)
            checked += 1
    assert checked > 10
    card = (out / "README.md").read_text()
    assert "| trained | low-rank adapters of rank 2, alpha 16, merged into the weights |" in card


def test_pretraining_goes_on_by_adapters_and_perplexity_reads_them(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy, ignore=shutil.ignore_patterns("5_pretrain", "6_sft", "7_generate"))
    start = f"pretrain.start_from={folder}/run/5_pretrain/retro"
    config = small_config(folder, start, "train.lora.rank=2", "train.lr=0.05", "perplexity.samples=8")
    config = config.model_copy(update={"run_dir": copy})
    run_stages(config, "pretrain", "perplexity")
    path = checkpoint.find(copy / "5_pretrain/retro")
    assert checkpoint.read_info(path).adapters is not None
    rows = json.loads((copy / "5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    assert len(rows) == 3
