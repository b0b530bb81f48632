"""The losses of a tiny run, pretrained and tuned: one process, float32, fixed seeds, every step."""

from __future__ import annotations

from pathlib import Path

from retro.run.pipeline import stage
from retro.training.log import read_log
from tests.tiny_road import run_stages, small_config

FILE = Path(__file__).parent / "tiny_losses.json"
SETTINGS = (
    "train={steps: 12, micro_batch: 4, global_batch: 8, warmup_steps: 2, lr: 3.0e-3, evaluate_every: 12, "
    "log_every: 1, precision: float32, seed: 1234}",
    "sft.train={steps: 6, micro_batch: 4, global_batch: 4, warmup_steps: 1, lr: 1.0e-3, log_every: 1, "
    "precision: float32, seed: 1234}",
)


def tiny_losses(folder: Path) -> dict[str, list[float]]:
    """Run the stages in `folder`; the training loss of each step, by stage."""
    config = small_config(folder, *SETTINGS)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft")
    return {name: _losses(stage(name).path(config)) for name in ("pretrain", "sft")}


def _losses(made: Path) -> list[float]:
    [log] = made.glob("*/log.jsonl")
    return [line["loss"] for line in read_log(log) if "loss" in line]
