"""DeepSpeed's learning rate schedules, and which of them a run's schedule is.

DeepSpeed counts iterations from 0 after the first optimizer step, and its first step is taken at the rate before
the warm-up; so its curve trails ours by one to two steps. What is mapped here is the shape of the curve.
"""

from __future__ import annotations

from typing import Any

from retro.interop.deepspeed.run_settings import RunSettings

COSINE, DECAY, WARMUP = "WarmupCosineLR", "WarmupDecayLR", "WarmupLR"
OF_SCHEDULE = {"cosine": COSINE, "linear": DECAY, "constant": WARMUP}
"""By `train.schedule`."""

_SHARED = {"warmup_num_steps": 1000, "warmup_type": "log"}
_RATES = _SHARED | {"warmup_min_lr": 0.0, "warmup_max_lr": 1e-3}
PARAMETERS: dict[str, dict[str, Any]] = {
    # Without `warmup_max_lr` older versions take 0.001 here too, newer ones the optimizer's rate.
    WARMUP: _RATES | {"warmup_max_lr": None},
    DECAY: _RATES | {"total_num_steps": None},
    COSINE: _SHARED | {"warmup_min_ratio": 0.0, "cos_min_ratio": 1e-4, "total_num_steps": None},
}
"""Parameters of each schedule, with what DeepSpeed takes for an absent one; None: it is needed, or the version says."""
OTHERS = ("OneCycle", "LRRangeTest")
"""DeepSpeed's schedules that no run has."""
SHORTEST = 2
"""Steps of DeepSpeed's shortest warm-up: a smaller `warmup_num_steps` counts as this."""


def parameters_of(run: RunSettings) -> dict[str, Any]:
    """The `scheduler` section that gives a run's schedule; no value of it is None.

    `WarmupCosineLR` takes shares of the optimizer's rate, the others rates. A run without warm-up begins at its peak:
    the warm-up then goes from the peak to the peak.
    """
    train, kind = run.train, OF_SCHEDULE[run.train.schedule]
    warms = train.warmup_steps >= SHORTEST
    parameters: dict[str, Any] = {"warmup_num_steps": max(1, train.warmup_steps), "warmup_type": "linear"}
    if kind == COSINE:
        parameters |= {"warmup_min_ratio": 0.0 if warms else 1.0, "cos_min_ratio": train.min_lr_fraction}
    else:
        first = 0.0 if warms else train.lr
        # WarmupDecayLR decays to the rate that its warm-up begins with; it has no other end.
        parameters |= {"warmup_min_lr": train.min_lr if kind == DECAY else first, "warmup_max_lr": train.lr}
    if kind != WARMUP:
        parameters["total_num_steps"] = train.decay_length
    return {"type": kind, "params": parameters}


def differences(run: RunSettings) -> list[str]:
    """Where DeepSpeed's nearest schedule is not the run's."""
    train, found = run.train, []
    short = train.warmup_steps < SHORTEST
    if train.schedule == "linear" and (train.min_lr or short):
        found.append(
            f"WarmupDecayLR decays to the rate that its warm-up begins with: with warmup_min_lr = {train.min_lr:g} the "
            f"warm-up begins there, where the run's begins at {train.lr if short else 0:g}"
        )
    if train.schedule == "cosine" and short:
        found.append(f"DeepSpeed's shortest warm-up has {SHORTEST} steps: they are at the peak, and the decay follows")
    if train.retrieval_rates != type(train.retrieval_rates)():
        found.append(
            f"{run.name('retrieval_rates')} gives some weights rates of their own; a DeepSpeed file has one rate, and "
            "parameter groups are for the script that calls it"
        )
    return found
