"""Runs and DeepSpeed files of these tests. The values are those of the messages that users of the field report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retro.interop.deepspeed.config_check import check_config
from retro.interop.deepspeed.findings import Findings
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.settings_file import SettingsFile
from retro.sft.config import SftTrainConfig
from retro.training.config import ParallelConfig

TRAIN: dict[str, Any] = {
    "micro_batch": 8,
    "global_batch": 16,
    "lr": 5e-5,
    "weight_decay": 0.01,
    "beta2": 0.98,
    "schedule": "cosine",
    "min_lr_fraction": 0.1,
    "warmup_steps": 3,
    "steps": 100,
    "precision": "bfloat16",
}


def run_of(processes: int = 1, layout: dict[str, Any] | None = None, **train: Any) -> RunSettings:
    return RunSettings.of("sft", SftTrainConfig(**(TRAIN | train)), ParallelConfig(**(layout or {})), processes)


def matching() -> dict[str, Any]:
    """A DeepSpeed file that matches `run_of()`, written by hand."""
    return {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 5e-5, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01}},
        "scheduler": {
            "type": "WarmupCosineLR",
            "params": {
                "total_num_steps": 100,
                "warmup_min_ratio": 0.0,
                "warmup_num_steps": 3,
                "cos_min_ratio": 0.1,
                "warmup_type": "linear",
            },
        },
        "zero_optimization": {"stage": 2},
    }


def put(data: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The same settings with another value under a dotted name."""
    *sections, last = name.split(".")
    inner = data
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return data


def file_of(data: Any, folder: Path, name: str = "ds.json") -> SettingsFile:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data, indent=2), encoding="utf-8")
    return SettingsFile.read(path, "DeepSpeed file")


def checked(data: Any, folder: Path, run: RunSettings | None = None, **options: Any) -> Findings:
    return check_config(file_of(data, folder), run or run_of(), **options)


def rows(found: Findings) -> dict[str, tuple[str, str]]:
    """Value in the file and in the run, of each mismatch by its setting."""
    return {one.setting: (one.found, one.run) for one in found.mismatches}
