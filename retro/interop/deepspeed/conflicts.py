"""What cannot be combined, and what ZeRO's stages are here."""

from __future__ import annotations

from collections.abc import Mapping

from retro.interop.deepspeed.findings import Findings
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.settings_file import AUTO

SHARDED_WEIGHTS = 3
"""The stage of ZeRO that shards the weights themselves."""
QUANTIZED_WHY = "ZeRO-3 cuts weights into pieces, and the blocks of a quantized base are no longer whole"
QUANTIZED_REMEDY = "Use stage 2 with QLoRA, or stage 3 with LoRA on a base that is not quantized"
_STAGES = {
    0: "no ZeRO: plain data parallelism, as here without parallel.distributed_optimizer",
    1: "ZeRO-1 shards optimizer state: here parallel.distributed_optimizer=true",
    2: "ZeRO-2 shards gradients too: the nearest here is parallel.distributed_optimizer=true (ZeRO-1)",
    3: "ZeRO-3 shards the weights: here that is parallel.tensor and parallel.pipeline",
}


def zero_stage(found: Findings) -> int:
    """The stage of ZeRO in a DeepSpeed file; 0 where it has none.

    Raises:
        DataError: It is no whole number, or none of 0 to 3.
    """
    file = found.file
    if isinstance(switched := file.at("zero_optimization"), bool):
        return int(switched)
    if file.section("zero_optimization") is None:
        return 0
    stage = file.whole("zero_optimization.stage") or 0
    if stage not in _STAGES:
        raise file.wrong("zero_optimization.stage", stage, "0, 1, 2 or 3")
    return stage


def check_deepspeed(found: Findings, run: RunSettings, *, quantized: bool) -> None:
    """Refuse ZeRO-3 with adapters on a quantized base.

    Raises:
        DataError: The stage cannot be read.
    """
    if zero_stage(found) == SHARDED_WEIGHTS and quantized:
        found.add("zero_optimization.stage", SHARDED_WEIGHTS, "QLoRA: refused", QUANTIZED_WHY, QUANTIZED_REMEDY)


def notes_on_zero(found: Findings, run: RunSettings) -> None:
    """Say what the stage is here, and what has no counterpart."""
    stage = zero_stage(found)
    own = " (set)" if run.layout.distributed_optimizer else ""
    found.notes.append(f"zero_optimization.stage {stage}: {_STAGES[stage]}{own}; losses are the same at every stage")
    for name in ("offload_optimizer", "offload_param"):
        place = f"zero_optimization.{name}"
        inner = found.file.at(place) if isinstance(found.file.at("zero_optimization"), Mapping) else None
        if isinstance(inner, Mapping) and str(inner.get("device", "none")) not in ("none", AUTO):
            found.notes.append(f"{place}: offload has no counterpart here; train.recompute saves memory instead")


def check_fsdp(found: Findings, *, fsdp: bool, deepspeed: bool, lora: bool) -> None:
    """Refuse FSDP beside DeepSpeed, and FSDP with LoRA unless parameters stay as they are.

    Args:
        found: Of the trainer's arguments.
        fsdp: Whether the arguments ask for FSDP.
        deepspeed: Whether they name a DeepSpeed file.
        lora: Whether adapters alone are trained.

    Raises:
        DataError: A value cannot be read.
    """
    file = found.file
    if fsdp and deepspeed:
        why = "both shard weights and optimizer state"
        found.add("fsdp", file.at("fsdp"), "refused beside deepspeed", why, "Leave out fsdp, or deepspeed")
    if fsdp and lora:
        config = file.beside("fsdp_config", "file of FSDP's settings")
        own = config is not None and any(map(config.truth, ("use_orig_params", "fsdp_use_orig_params")))
        second = config is not None and 2 in (config.whole("version"), config.whole("fsdp_version"))
        if not own and not second:
            why = "FSDP flattens frozen and trained weights into one, which then cannot have gradients of its own"
            remedy = "Write fsdp_config.use_orig_params=true, or version 2 of FSDP; here parallel.tensor splits weights"
            found.add("fsdp", file.at("fsdp"), "LoRA: refused without use_orig_params", why, remedy)
