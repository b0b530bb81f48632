"""The scheduler of a DeepSpeed file beside a run's."""

from __future__ import annotations

from typing import Any

from retro.common.config import unknown_name
from retro.interop.deepspeed import schedule
from retro.interop.deepspeed.findings import Findings, shown
from retro.interop.deepspeed.run_settings import RunSettings

PLACE = "scheduler.params"
_RATES = {"warmup_min_lr": "warmup_min_ratio", "warmup_max_lr": "optimizer.params.lr"}
_WHY = {
    "warmup_num_steps": "another warm-up",
    "total_num_steps": "the decay ends at another step",
    "warmup_max_lr": "the peak of the schedule",
    "warmup_min_lr": "the rate that the warm-up begins with",
    "warmup_min_ratio": "the share of lr that the warm-up begins with",
    "cos_min_ratio": "the share of lr that is left at the end",
    "warmup_type": "a logarithmic warm-up is at half the rate in a few steps",
}


def check_scheduler(found: Findings, run: RunSettings) -> None:
    """Compare the scheduler of a file with the run's schedule.

    Raises:
        DataError: A value cannot be read.
    """
    file, right = found.file, schedule.parameters_of(run)
    found.notes += schedule.differences(run)
    if file.section("scheduler") is None:
        found.absent += [f"scheduler.type = {right['type']}"]
        found.absent += [f"{PLACE}.{name} = {shown(value)}" for name, value in right["params"].items()]
        return
    kind = file.text("scheduler.type")
    if kind != right["type"]:
        _add_other_type(found, run, kind, right)
    if kind not in schedule.PARAMETERS:
        return
    _check_names(found, kind)
    for name, wanted in right["params"].items():
        if name in schedule.PARAMETERS[kind]:
            _compare(found, run, kind, name, wanted)


def _add_other_type(found: Findings, run: RunSettings, kind: str | None, right: dict[str, Any]) -> None:
    known = [*schedule.PARAMETERS, *schedule.OTHERS]
    if kind is None:
        why = "without a type DeepSpeed reads nothing of the section"
    elif kind in known:
        why = "another curve of the learning rate"
    else:
        why = unknown_name(kind, known).replace("a setting", "a schedule of DeepSpeed")
    values = ", ".join(f"{name} {shown(one)}" for name, one in right["params"].items())
    remedy = f"Write {right['type']} with {values}: it is {run.name('schedule')}={run.train.schedule}"
    found.add("scheduler.type", kind or "absent", right["type"], why, remedy)


def _check_names(found: Findings, kind: str) -> None:
    """Parameters that the schedule does not take, and a total that is missing."""
    known = list(schedule.PARAMETERS[kind])
    inner = found.file.section(PLACE) or {}
    for name, value in inner.items():
        if name in known:
            continue
        if kind == schedule.COSINE and name in _RATES:
            remedy = f"{kind} takes shares of lr, no rates: leave it out; {_RATES[name]} has its place"
        else:
            remedy = unknown_name(name, known).replace("is not a setting", f"{kind} takes {', '.join(known)}")
        found.add(f"{PLACE}.{name}", value, "", f"{kind} refuses it, and DeepSpeed stops", remedy)
    if "total_num_steps" in known and "total_num_steps" not in inner:
        found.add(f"{PLACE}.total_num_steps", "absent", "", f"{kind} cannot do without it", "Write it")


def _compare(found: Findings, run: RunSettings, kind: str, name: str, wanted: Any) -> None:
    place, file, train = f"{PLACE}.{name}", found.file, run.train
    default = schedule.PARAMETERS[kind][name]
    if name == "warmup_type":
        value = file.text(place)
        if (value or default) != wanted and train.warmup_steps >= schedule.SHORTEST:
            found.add(place, value or f"{default} (default)", wanted, _WHY[name], "Write linear")
    elif name == "warmup_num_steps" and (steps := file.whole(place)) is not None and steps < 1:
        found.add(place, steps, shown(wanted), "DeepSpeed needs at least 1", f"Write {shown(wanted)}")
    elif name != "total_num_steps" or file.at(place) is not None:
        found.compare(place, wanted, _source(run, name), _WHY[name], default=default)


def _source(run: RunSettings, name: str) -> str:
    """The setting of the run that a parameter is; empty for a rate or share that follows from several."""
    total = "decay_steps" if run.train.decay_steps else "steps"
    ours = {
        "warmup_num_steps": "warmup_steps",
        "total_num_steps": total,
        "warmup_max_lr": "lr",
        "cos_min_ratio": "min_lr_fraction",
    }
    return run.name(ours[name]) if name in ours else ""
