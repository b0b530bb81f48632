"""The tuning stage with samples packed, passages found live, and the encoder learning beside the decoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.model.weight_names import is_retrieval
from retro.run.config import RunConfig
from retro.training import checkpoint
from tests.tiny_road import run_stages, small_config

# For more than one sample in a row.
ROOM = "model.sequence_length=128"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is pretrained, with questions whose answers fill chunks."""
    folder = tmp_path_factory.mktemp("pretrained")
    run_stages(small_config(folder, ROOM), "corpus", "db", "index", "neighbors", "pretrain")
    questions = json.loads((folder / "train.json").read_text())
    for number, one in enumerate(questions):
        one["answer"] = " ".join([one.pop("answers")[0]] * (1 + 8 * (number % 4)))
    (folder / "long.json").write_text(json.dumps(questions))
    return folder


def live(folder: Path, run: str, **more: Any) -> RunConfig:
    """Settings of the tuning stage in a copy of the run."""
    if not (folder / run).exists():
        shutil.copytree(folder / "run", folder / run)
    sets = f"sets: [{{name: long, path: {folder}/long.json}}]"
    data = f"sft.data={{style: plain, contexts_in_prompt: 0, passages_from: live, packing: true, {sets}}}"
    return small_config(folder, ROOM, data, *(f"{name}={value}" for name, value in more.items()), run=run)


def tuned(folder: Path, run: str) -> Path:
    (found,) = (folder / run / "6_sft").glob("retro-*")
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    model, _ = checkpoint.load_model(checkpoint.find(path))
    return {name: value.detach() for name, value in model.named_parameters()}


def test_packed_samples_with_live_passages_tune_decoder_and_encoder(folder: Path) -> None:
    run_stages(live(folder, "live"), "sft")
    report = json.loads((folder / "live/6_sft/report.json").read_text())
    (of_set,) = report["sets"]
    assert of_set["answer_chunks"] > 0
    packing = report["packing"]
    assert packing["sequences"] == 4 * 4
    assert packing["samples"] > packing["sequences"]
    assert packing["efficiency"] == packing["real_tokens"] / packing["slots"]
    assert report["mixture"]["long"]["samples"] == packing["samples"]
    before, after = weights(folder / "live/5_pretrain/retro"), weights(tuned(folder, "live"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".encoder." in name for name in changed)
    assert {is_retrieval(name) for name in changed} == {True, False}


def test_a_stopped_packed_run_ends_in_the_same_weights(folder: Path) -> None:
    run_stages(live(folder, "unbroken"), "sft")
    shutil.copytree(folder / "unbroken", folder / "broken")
    run = tuned(folder, "broken")
    (folder / "broken/6_sft/manifest.json").unlink()
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints/step_00000004")
    run_stages(live(folder, "broken"), "sft")
    paths = (folder / name / "6_sft/manifest.json" for name in ("unbroken", "broken"))
    unbroken, broken = (json.loads(path.read_text())["counts"] for path in paths)
    assert unbroken == broken
