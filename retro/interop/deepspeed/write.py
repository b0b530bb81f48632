"""The DeepSpeed file that matches a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import write_plain_json
from retro.interop.deepspeed import known, schedule
from retro.interop.deepspeed.conflicts import QUANTIZED_REMEDY, QUANTIZED_WHY, SHARDED_WEIGHTS, zero_stage
from retro.interop.deepspeed.findings import Findings
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.settings_file import AUTO, SettingsFile

_OURS = (*known.BATCH, "gradient_clipping", "bf16", "bfloat16", "fp16", "amp", "optimizer", "scheduler")
"""What the run decides; the rest of a file stays as it is."""


def matching_config(run: RunSettings, file: SettingsFile | None = None, *, quantized: bool = False) -> dict[str, Any]:
    """The DeepSpeed settings of a run, complete: no "auto", no null.

    Args:
        run: A stage of the run.
        file: What the user has; its ZeRO and all that is not about the run's training is kept. None: ZeRO-1 where the
            run has a distributed optimizer, else no ZeRO.
        quantized: Whether the weights below the adapters are quantized.

    Raises:
        ConfigError: The file's ZeRO-3 does not go with a quantized base.
        DataError: A value of the file cannot be read.
    """
    train = run.train
    if file is not None and quantized and zero_stage(Findings(file)) == SHARDED_WEIGHTS:
        need = f"cannot be written beside QLoRA: {QUANTIZED_WHY}. {QUANTIZED_REMEDY}"
        raise ConfigError("zero_optimization.stage", SHARDED_WEIGHTS, need)
    kept = {} if file is None else {name: one for name, one in file.data.items() if name not in _OURS}
    zero = {"stage": int(run.layout.distributed_optimizer)}
    if isinstance(kept.get("zero_optimization"), bool):
        kept["zero_optimization"] = {"stage": int(kept["zero_optimization"])}
    rates = {"lr": train.lr, "betas": [train.beta1, train.beta2], "eps": train.epsilon}
    made = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": run.accumulation,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": run.bfloat16},
        "fp16": {"enabled": False},
        "optimizer": {"type": "AdamW", "params": rates | {"weight_decay": train.weight_decay}},
        "scheduler": schedule.parameters_of(run),
    }
    rest = _settled({"zero_optimization": zero} | kept, "")
    return made | {name: one for name, one in rest.items() if name in known.TOP}


def _settled(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A section without unknown keys, nulls, and values that a caller was to fill: DeepSpeed's defaults hold then."""
    names = known.SECTIONS.get(place)
    found = {}
    for name, one in value.items():
        if one is None or one == AUTO or (names is not None and name not in names):
            continue
        here = f"{place}.{name}" if place else name
        found[name] = _settled(one, here) if isinstance(one, Mapping) else one
    return found


def write_config(path: Path, config: Mapping[str, Any], *, force: bool) -> None:
    """Write a DeepSpeed file, whole or not at all.

    Args:
        path: Where.
        config: Its settings.
        force: Whether to replace a file.

    Raises:
        ArtifactError: There is a file, or it cannot be written.
    """
    if path.exists() and not force:
        raise ArtifactError(path, "is there already", "Give another --write, or --force to write it again")
    write_plain_json(path, dict(config))
