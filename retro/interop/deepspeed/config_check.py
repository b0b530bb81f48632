"""A DeepSpeed file beside a run: every mismatch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retro.common.config import unknown_name
from retro.interop.deepspeed import known
from retro.interop.deepspeed.conflicts import check_deepspeed, notes_on_zero
from retro.interop.deepspeed.findings import Findings, same, shown
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.scheduler_check import check_scheduler
from retro.interop.deepspeed.settings_file import AUTO, SettingsFile

_MEMORY = "the memory of a pass follows from it"
_STEP = "another batch is another gradient in every step"
_SHARED = "a step is then not the batch that the file says; DeepSpeed stops with an assertion"


def check_config(file: SettingsFile, run: RunSettings, *, quantized: bool = False) -> Findings:
    """Compare a DeepSpeed file with a run.

    Args:
        file: What `deepspeed` is called with.
        run: A stage of the run.
        quantized: Whether the weights below the adapters are stored in 4 or 8 bits (QLoRA).

    Raises:
        DataError: A value cannot be read; line and key are named.
    """
    found = Findings(file)
    _check_nulls(found)
    _check_names(found)
    _check_batch(found, run)
    _check_optimizer(found, run)
    check_scheduler(found, run)
    _check_clipping(found, run)
    _check_precision(found, run)
    check_deepspeed(found, run, quantized=quantized)
    notes_on_zero(found, run)
    return found


def _check_nulls(found: Findings) -> None:
    for name, value in found.file.every():
        if value is None:
            why = "DeepSpeed computes with it and stops, as in `**` of None"
            found.add(name, None, "", why, 'Give a value or "auto", or leave the key out')


def _check_names(found: Findings) -> None:
    for section, names in known.SECTIONS.items():
        inner: Any = found.file.data
        for part in section.split(".") if section else ():
            # `zero_optimization: true` is an old spelling of stage 1, and has no keys.
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            add_unknown(found, section, inner, sorted(names), "DeepSpeed does not read it, and says nothing")


def add_unknown(found: Findings, section: str, inner: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """Add the keys of a section that nobody reads, each with the nearest known one."""
    for key, value in inner.items():
        if key not in names:
            place = f"{section}.{key}" if section else key
            hint = unknown_name(key, names)
            near = hint.rpartition("did you mean ")[2] if "did you mean" in hint else ""
            remedy = f"Did you mean {near} Else leave it out" if near else "Leave it out"
            # A text may be a key of some service, which nobody wants to see in a log.
            given = "a section" if isinstance(value, Mapping) else "a text" if isinstance(value, str) else value
            found.add(place, given, "", why, remedy)


def _check_batch(found: Findings, run: RunSettings) -> None:
    """The three numbers of a batch among themselves, and beside the run."""
    file, train = found.file, run.train
    total, micro, steps = (file.whole(name) for name in known.BATCH)
    given = [name for name in known.BATCH if file.at(name) is not None]
    for name, value, source, why in (
        (known.BATCH[0], train.global_batch, run.name("global_batch"), _STEP),
        (known.BATCH[1], train.micro_batch, run.name("micro_batch"), _MEMORY),
        (known.BATCH[2], run.accumulation, "", f"{_STEP}; it is global_batch / micro_batch / {run.ranks} ranks"),
    ):
        # An absent one follows from the others, by DeepSpeed's own rule; two of them say all.
        follows = {known.BATCH[0]: micro and micro * run.ranks, known.BATCH[1]: total and total // run.ranks}
        if name in given or not {*known.BATCH[:2]} & {*given}:
            found.compare(name, value, source, why)
        elif len(given) == 1 and name != known.BATCH[2] and follows[name]:
            found.compare(name, value, source, why, default=follows[name])
    if total and micro and steps and total != micro * steps * run.ranks:
        product = f"{micro} x {steps} x {run.ranks} ranks = {micro * steps * run.ranks}, in the file itself"
        remedy = "Make train_batch_size = micro batch x accumulation x processes; see --processes"
        found.add(known.BATCH[0], total, product, _SHARED, remedy)


def _check_optimizer(found: Findings, run: RunSettings) -> None:
    file, train = found.file, run.train
    names = ("lr", "betas", "eps", "weight_decay")
    if file.section("optimizer") is None:
        values: tuple[object, ...] = (train.lr, (train.beta1, train.beta2), train.epsilon, train.weight_decay)
        found.absent += [f"optimizer.params.{name} = {shown(one)}" for name, one in zip(names, values, strict=True)]
        return
    kind = file.text("optimizer.type")
    if kind is None or kind.lower() not in ("adam", "adamw"):
        why = "without a type DeepSpeed reads nothing of the section" if kind is None else "another optimizer"
        found.add("optimizer.type", kind or "absent", "AdamW", why, "Write AdamW: Adam with decoupled weight decay")
    if kind is not None and kind.lower() not in ("adam", "adamw"):
        return
    _check_adam(found, run)


def _check_adam(found: Findings, run: RunSettings) -> None:
    file, train = found.file, run.train
    place = "optimizer.params"
    inner = file.section(place) or {}
    if "max_grad_norm" in inner:
        why = "DeepSpeed refuses it there"
        found.add(f"{place}.max_grad_norm", inner["max_grad_norm"], "", why, "Write gradient_clipping at the top")
    names = sorted({*known.ADAM, "max_grad_norm"})
    add_unknown(found, place, inner, names, "the optimizer's constructor refuses it")
    for name, wanted, setting, why in (
        ("lr", train.lr, "lr", "the peak of the schedule"),
        ("eps", train.epsilon, "epsilon", "Adam's denominator"),
        ("weight_decay", train.weight_decay, "weight_decay", "how fast weights shrink"),
    ):
        found.compare(f"{place}.{name}", wanted, run.name(setting), why, default=known.ADAM_DEFAULTS[name])
    _check_betas(found, run)
    decoupled = file.truth(f"{place}.adam_w_mode")
    if decoupled is False and train.weight_decay and (file.text("optimizer.type") or "").lower() == "adam":
        why = "weight decay then goes through Adam's moments"
        found.add(f"{place}.adam_w_mode", False, "true", why, "Leave it out, or write AdamW")
    for name, right in (("bias_correction", True), ("amsgrad", False)):
        if file.truth(f"{place}.{name}") is (not right):
            found.add(f"{place}.{name}", not right, shown(right), "another update rule", "Leave it out")


def _check_betas(found: Findings, run: RunSettings) -> None:
    name, file = "optimizer.params.betas", found.file
    value, run_s = file.at(name), (run.train.beta1, run.train.beta2)
    if value == AUTO:
        found.filled.append(name)
        return
    if value is not None and (not isinstance(value, list) or len(value) != 2):
        raise file.wrong(name, value, "a list of two numbers")
    given = [file.number(f"{name}.{number}") for number in (0, 1)] if value is not None else list(known.ADAM_BETAS)
    if AUTO in (value or ()):
        found.filled.append(name)
    if any(one is not None and not same(one, wanted) for one, wanted in zip(given, run_s, strict=True)):
        text = f"{shown(value)}" if value is not None else f"{shown(given)} (default)"
        remedy = f"Write {shown(run_s)}, which are {run.name('beta1')} and beta2"
        found.add(name, text, shown(run_s), "how long Adam remembers gradients", remedy)


def _check_clipping(found: Findings, run: RunSettings) -> None:
    # A file with an optimizer is whole: HuggingFace's Trainer fills in what is "auto", and nothing that is absent.
    default = 0.0 if found.file.at("optimizer") is not None else None
    why = "DeepSpeed clips by this value alone"
    found.compare("gradient_clipping", run.train.clip, run.name("clip"), why, default=default)


def _check_precision(found: Findings, run: RunSettings) -> None:
    file = found.file
    name = "bfloat16" if file.at("bf16") is None and file.at("bfloat16") is not None else "bf16"
    for section, wanted in ((name, run.bfloat16), ("fp16", False)):
        setting = f"{section}.enabled"
        if file.section(section) is None:
            if section == name:
                found.absent.append(f"bf16.enabled = {shown(wanted)}")
            continue
        if file.at(setting) == AUTO:
            found.filled.append(setting)
            continue
        value = bool(file.truth(setting))
        if value != wanted:
            why = (
                "this toolkit has no float16"
                if section == "fp16"
                else "weights and activations are rounded differently"
            )
            other = f", or set {run.name('precision')}={'float32' if wanted else 'bfloat16'} in the run"
            found.add(setting, value, shown(wanted), why, f"Write {shown(wanted)}{other if section != 'fp16' else ''}")
    if file.truth(f"{name}.enabled") and file.truth("fp16.enabled"):
        why = "DeepSpeed refuses both at once"
        found.add("fp16.enabled", True, "", why, f"Keep one of {name} and fp16")
