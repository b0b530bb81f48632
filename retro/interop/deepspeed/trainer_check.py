"""The arguments of HuggingFace's Trainer beside a run: every mismatch at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retro.interop.deepspeed.config_check import add_unknown, check_config
from retro.interop.deepspeed.conflicts import QUANTIZED_REMEDY, QUANTIZED_WHY, SHARDED_WEIGHTS, check_fsdp, zero_stage
from retro.interop.deepspeed.findings import Findings, shown
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.settings_file import AUTO, SettingsFile
from retro.interop.deepspeed.trainer_names import ARGUMENTS, BESIDE, FORMER, NEVER_NULL
from retro.interop.deepspeed.trainer_steps import BATCH_DEFAULTS, check_batch, check_steps, steps_of

_DEFAULTS = {
    **BATCH_DEFAULTS,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
}
"""What transformers takes for arguments that are absent."""
_ADAM = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw_anyprecision", "adamw_torch_xla")
_FOUR_BIT = ("load_in_4bit", "load_in_8bit", "use_qlora", "q_lora")


def check_arguments(file: SettingsFile, run: RunSettings, *, samples: int | None, quantized: bool = False) -> Findings:
    """Compare the arguments of a Trainer with a run; an absent one counts with its default.

    Args:
        file: `TrainingArguments`, in a file as HfArgumentParser reads it.
        run: A stage of the run.
        samples: Training samples, from which steps follow where arguments give epochs; None: not known.
        quantized: Whether the base is quantized, whatever the arguments say of it.

    Raises:
        DataError: A value cannot be read; line and key are named.
    """
    found = Findings(file)
    names = sorted(ARGUMENTS | FORMER | BESIDE)
    add_unknown(found, "", file.data, names, "the Trainer does not know it; a script may")
    _check_nulls(found)
    _check_numbers(found, run)
    check_batch(found, run)
    check_steps(found, run, samples)
    _check_schedule(found, run, samples)
    _check_precision(found, run)
    quantized = quantized or _is_quantized(file)
    _check_sharding(found, run, quantized=quantized)
    if run.train.lora is not None and file.truth("gradient_checkpointing"):
        found.notes.append(
            "gradient_checkpointing with adapters: call model.enable_input_require_grads(), or set "
            "gradient_checkpointing_kwargs={use_reentrant: false}; else the loss has no gradient. "
            f"{run.name('recompute')} needs neither"
        )
    return found


def _check_numbers(found: Findings, run: RunSettings) -> None:
    train, file = run.train, found.file
    for name, wanted, source, why in (
        ("learning_rate", train.lr, "lr", "the peak of the schedule"),
        ("weight_decay", train.weight_decay, "weight_decay", "how fast weights shrink"),
        ("adam_beta1", train.beta1, "beta1", "how long Adam remembers gradients"),
        ("adam_beta2", train.beta2, "beta2", "how long Adam remembers their squares"),
        ("adam_epsilon", train.epsilon, "epsilon", "Adam's denominator"),
        ("max_grad_norm", train.clip, "clip", "gradients are clipped to it"),
    ):
        found.compare(name, wanted, run.name(source), why, default=_DEFAULTS.get(name))
    kind = file.text("optim")
    if kind is not None and kind not in _ADAM:
        found.add("optim", kind, "adamw_torch", "another optimizer", "Write adamw_torch, which is the run's")
    if file.truth("adafactor"):
        why = "another optimizer, whatever optim says"
        found.add("adafactor", True, "false", why, "Leave it out; the run's is optim: adamw_torch")


def _check_nulls(found: Findings) -> None:
    data = found.file.data
    for name in sorted(NEVER_NULL & data.keys()):
        if data[name] is None:
            why = "it is not the default: the Trainer stops, or does without, as without clipping"
            found.add(name, None, "", why, "Give a value, or leave the key out")


def _check_schedule(found: Findings, run: RunSettings, samples: int | None) -> None:
    file, train = found.file, run.train
    kind = file.text("lr_scheduler_type") or "linear"
    wanted, options = schedule_of(run)
    plain = kind == "constant" and wanted == "constant_with_warmup" and not train.warmup_steps
    given = file.at("lr_scheduler_kwargs") or {}
    differs = any(not isinstance(given, Mapping) or _differs(given.get(name), one) for name, one in options.items())
    if not plain and (kind != wanted or differs):
        text = kind if file.at("lr_scheduler_type") is not None else f"{kind} (default)"
        beside = f" and lr_scheduler_kwargs {{{', '.join(f'{n}: {shown(v)}' for n, v in options.items())}}}"
        why = f"another curve than {run.name('schedule')}={train.schedule}, min_lr_fraction={train.min_lr_fraction:g}"
        found.add("lr_scheduler_type", text, wanted, why, f"Write {wanted}{beside if options else ''}")
    _check_warmup(found, run, steps_of(file, run, samples)[0])


def _differs(given: Any, wanted: float) -> bool:
    try:
        return not math.isclose(float(given), wanted, rel_tol=1e-9)
    except (TypeError, ValueError):
        return True


def schedule_of(run: RunSettings) -> tuple[str, dict[str, float]]:
    """`lr_scheduler_type` and `lr_scheduler_kwargs` of a run's schedule; transformers has every one of them."""
    train = run.train
    if train.schedule == "constant":
        return "constant_with_warmup", {}
    if train.schedule == "cosine":
        share = {"min_lr_rate": train.min_lr_fraction}
        return ("cosine_with_min_lr", share) if train.min_lr_fraction else ("cosine", {})
    # A polynomial of degree 1 is linear, and ends where it is told to.
    end = {"lr_end": train.min_lr, "power": 1.0}
    return ("polynomial", end) if train.min_lr_fraction else ("linear", {})


def _check_warmup(found: Findings, run: RunSettings, steps: int | None) -> None:
    file, wanted = found.file, run.train.warmup_steps
    name = "warmup_steps"
    given = file.number(name) or 0.0
    share = given if given < 1 else 0.0
    if not given and file.number("warmup_ratio"):
        name, share = "warmup_ratio", file.number("warmup_ratio") or 0.0
    if share and steps is None:
        found.notes.append(f"{name} {share:g}: how many steps it is depends on the samples; give --samples")
        return
    warmup = math.ceil(share * (steps or 0)) if share else int(given)
    if warmup != wanted:
        text = f"{share:g}: {warmup} steps" if share else warmup
        absent = file.at(name) is None
        remedy = f"Write {wanted}, or set {run.name('warmup_steps')}={warmup} in the run"
        found.add(name, f"{text} (default)" if absent else str(text), str(wanted), "another warm-up", remedy)


def _check_precision(found: Findings, run: RunSettings) -> None:
    for name, wanted in (("bf16", run.bfloat16), ("fp16", False)):
        value = bool(found.file.truth(name))
        if found.file.at(name) == AUTO or value == wanted:
            continue
        text = shown(value) if found.file.at(name) is not None else f"{shown(value)} (default)"
        why = "this toolkit has no float16" if name == "fp16" else "weights and activations are rounded differently"
        found.add(name, text, shown(wanted), why, f"Write {shown(wanted)}: the run's is {run.name('precision')}")


def _is_quantized(file: SettingsFile) -> bool:
    inner = file.at("quantization_config")
    bits = file.whole("bits") in (4, 8)
    within = isinstance(inner, Mapping) and any(
        file.truth(f"quantization_config.{name}") for name in ("load_in_4bit", "load_in_8bit")
    )
    return bits or within or any(file.truth(name) for name in _FOUR_BIT)


def _check_sharding(found: Findings, run: RunSettings, *, quantized: bool) -> None:
    """FSDP, DeepSpeed, and what they cannot be combined with; the DeepSpeed file is compared too."""
    file = found.file
    fsdp = file.at("fsdp")
    wants_fsdp = bool(fsdp) and str(fsdp).lower() not in ("false", "no", "0")
    lora = run.train.lora is not None or bool(file.truth("use_peft"))
    theirs = file.beside("deepspeed", "DeepSpeed file")
    check_fsdp(found, fsdp=wants_fsdp, deepspeed=theirs is not None, lora=lora)
    if theirs is None:
        return
    beside = check_config(theirs, run)
    if quantized and zero_stage(beside) == SHARDED_WEIGHTS:
        found.add("deepspeed", "ZeRO-3", "QLoRA: refused", QUANTIZED_WHY, QUANTIZED_REMEDY)
    found.mismatches += [
        type(one)(**(vars(one) | {"setting": f"deepspeed: {one.setting}"})) for one in beside.mismatches
    ]
    found.filled += [f"deepspeed: {name}" for name in beside.filled]
    found.notes += [f"deepspeed: {note}" for note in beside.notes]
    _check_between(found, theirs)


_BETWEEN = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler.params.warmup_max_lr": "learning_rate",
}
"""Of a DeepSpeed file, the arguments that the Trainer wants equal to it."""


def _check_between(found: Findings, theirs: SettingsFile) -> None:
    """Values of the two files that the Trainer would refuse beside each other."""
    for name, argument in _BETWEEN.items():
        value, given = theirs.number(name), found.file.number(argument)
        given = _DEFAULTS.get(argument) if given is None else given
        if value is not None and given is not None and not math.isclose(value, given, rel_tol=1e-9):
            remedy = 'Write "auto" in the DeepSpeed file, which takes the argument'
            why = "the Trainer stops where the two differ"
            found.add(argument, given, f"{name} {shown(value)}", why, remedy)
