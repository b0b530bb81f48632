"""The batch of the Trainer's arguments beside a run's, and the steps that follow from it."""

from __future__ import annotations

import math

from retro.interop.deepspeed.findings import Findings, shown
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.settings_file import SettingsFile

_MICRO, _ACCUMULATION, _FORMER = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_gpu_train_batch_size",
)
BATCH_DEFAULTS = {_MICRO: 8, _ACCUMULATION: 1}
"""What transformers takes for those that are absent."""
_EPOCHS = 3.0


def _batch(file: SettingsFile) -> tuple[str, int, int]:
    """The argument that says the micro batch, its value, and the accumulation.

    Raises:
        DataError: One is no whole number from 1.
    """
    # transformers 4 prefers the former name, which 5 does not know.
    micro = _MICRO if file.at(_FORMER) is None else _FORMER
    return micro, _at_least_one(file, micro), _at_least_one(file, _ACCUMULATION)


def _at_least_one(file: SettingsFile, name: str) -> int:
    if file.at(name) is None:
        return BATCH_DEFAULTS.get(name, BATCH_DEFAULTS[_MICRO])
    value = file.whole(name)
    if value is None or value < 1:
        raise file.wrong(name, file.at(name), "a whole number from 1")
    return value


def check_batch(found: Findings, run: RunSettings) -> None:
    """Compare the micro batch, and the samples of a step: micro batch x accumulation x processes.

    Each remedy names both numbers, so that following all of them leaves no mismatch.

    Raises:
        DataError: A value cannot be read; line and key are named.
    """
    wanted, total = run.train.micro_batch, run.train.global_batch
    micro, given, accumulated = _batch(found.file)
    if given != wanted:
        text = f"{given} (default)" if found.file.at(micro) is None else given
        fits = total % (given * run.ranks) == 0
        other = f", or set {run.name('micro_batch')}={given} in the run" if fits else ""
        remedy = f"Write {wanted} beside {_ACCUMULATION} {run.accumulation}{other}"
        found.add(micro, text, str(wanted), "the memory of a pass follows from it", remedy)
    product = given * accumulated * run.ranks
    if product != total:
        text = f"{accumulated}: {given} x {accumulated} x {run.ranks} ranks = {product} samples in a step"
        why = f"another batch is another gradient in every step; the run's is {run.name('global_batch')}"
        word = "Keep" if accumulated == run.accumulation else "Write"
        found.add(_ACCUMULATION, text, str(total), why, f"{word} {run.accumulation} beside {micro} {wanted}")


def steps_of_epochs(
    epochs: float, samples: int, micro_batch: int, ranks: int, accumulation: int, *, drop_last: bool = False
) -> int:
    """Optimizer steps that the Trainer takes, the last of each epoch with what is left.

    Args:
        epochs: How often it goes through the data.
        samples: Of one epoch.
        micro_batch: Samples of a pass on one rank.
        ranks: Processes with samples of their own.
        accumulation: Passes in a step.
        drop_last: Whether samples that do not fill a pass of all ranks are left out.
    """
    passes = samples / (micro_batch * ranks)
    whole = math.floor(passes) if drop_last else math.ceil(passes)
    return math.ceil(epochs * max(1, math.ceil(whole / accumulation)))


def _epochs(file: SettingsFile) -> float:
    given = file.number("num_train_epochs")
    return _EPOCHS if given is None else given


def steps_of(file: SettingsFile, run: RunSettings, samples: int | None) -> tuple[int | None, str]:
    """Steps that the arguments ask for, and how they say so; None where samples are not known.

    Raises:
        DataError: A value cannot be read; line and key are named.
    """
    steps = file.whole("max_steps")
    if steps is not None and steps > 0:
        return steps, "max_steps"
    epochs, name = _epochs(file), "num_train_epochs"
    if samples is None:
        return None, name
    _, micro, accumulation = _batch(file)
    drop_last = bool(file.truth("dataloader_drop_last"))
    return steps_of_epochs(epochs, samples, micro, run.ranks, accumulation, drop_last=drop_last), name


def check_steps(found: Findings, run: RunSettings, samples: int | None) -> None:
    """Compare where training ends.

    Raises:
        DataError: A value cannot be read; line and key are named.
    """
    steps, name = steps_of(found.file, run, samples)
    if steps is None:
        found.notes.append("num_train_epochs: how many steps it is depends on the samples; give --samples")
        return
    if run.train.decay_steps not in (0, run.train.steps):
        end = f"{run.name('decay_steps')} = {run.train.decay_steps}"
        found.notes.append(f"the Trainer's decay ends with the last step; that of the run ends at {end}")
    if steps != run.train.steps:
        epochs = f"{shown(_epochs(found.file))}: {steps} steps of {samples} samples"
        text = str(steps) if name == "max_steps" else epochs
        remedy = f"Write max_steps {run.train.steps}, or set {run.name('steps')}={steps} in the run"
        found.add(name, text, str(run.train.steps), "the decay ends at another step", remedy)
