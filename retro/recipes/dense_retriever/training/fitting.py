"""One training of an encoder: from a starting model and batches to a saved model, a curve and a report.

It may be killed at any moment: checkpoints are gone on from, and the model ends in the same bytes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError
from retro.common.files import discard, read_json, write_json
from retro.common.launcher import Worker, worker_of
from retro.common.optional import import_optional
from retro.common.precision import choose
from retro.recipes.base import Made
from retro.recipes.dense_retriever.pairs import Pair
from retro.recipes.dense_retriever.training.batches import Columns, Plan
from retro.recipes.dense_retriever.training.config import FitConfig, LoraConfig, StartConfig
from retro.recipes.dense_retriever.training.saved_model import save_model
from retro.recipes.dense_retriever.training.starting_model import open_start
from retro.recipes.item_files import write_items

log = logging.getLogger(__name__)

CHECKPOINTS, CURVE, REFRESH = "checkpoints", "curve.jsonl", "refresh"
_START, _SETUP, _BEFORE, _FINISHED = "start", "setup.json", "before.json", "finished.json"
_REMEDY = "Run the step with --redo"
_EXTRA = {"extra": "retriever", "use": "trains a retriever"}
_LOGGED = 10


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is trained, on what."""

    config: FitConfig
    start: StartConfig
    out: Path
    """The step's folder."""
    words: Callable[[], Iterable[str]]
    """Texts that a model from scratch learns its vocabulary from."""
    plan: Plan
    columns: Callable[[int], Columns]
    """The texts of a step."""
    valid: Sequence[Pair]
    made_of: Mapping[str, Any]
    """All that decides the weights, besides settings: a checkpoint of something else is not gone on from."""
    refresh: Callable[[Any, int], None] | None = None
    """Called in one process after each step, with the model and the number of steps done."""
    seen: Callable[[], Mapping[str, Any]] = dict
    """Counts of this process for the report, when training is over."""


def fit(work: Fit) -> Made:
    """Train, and save the model into the step's folder.

    Raises:
        DependencyError: A package is missing.
        ConfigError: The batch does not divide among the processes.
        DataError: The starting model cannot be used.
        TrainingError: The loss is not finite, or the embeddings have collapsed.
        ArtifactError: A checkpoint was changed on disk, or the disk is full.
    """
    for package in ("sentence_transformers", "datasets", "accelerate"):
        import_optional(package, **_EXTRA)
    _be_quiet()
    worker = worker_of()
    _require_divisible(work.config, worker)
    begun = _begin(work, worker)
    if (finished := _finished(work.out)) is not None:
        return finished
    trainer = _trainer(work, worker, bfloat16=begun["precision"] == "bfloat16")
    from retro.recipes.dense_retriever.training.trainer import last_checkpoint

    before = _before(work, trainer, worker)
    checkpoint = last_checkpoint(work.out / CHECKPOINTS)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    kept = trainer.state.global_step
    if work.config.keep == "best" and trainer.state.best_global_step:
        kept = trainer.state.best_global_step
        trainer.load_checkpoint(work.out / CHECKPOINTS / f"checkpoint-{kept}")
    return _finish(work, trainer, worker, before=before, kept=kept, precision=begun["precision"])


def _be_quiet() -> None:
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _require_divisible(config: FitConfig, worker: Worker) -> None:
    if config.batch_size % worker.world:
        need = f"needs a multiple of {worker.world}, the number of processes"
        raise ConfigError(f"{type(config).__name__}.batch_size", config.batch_size, need)


def _begin(work: Fit, worker: Worker) -> dict[str, Any]:
    """What this training was begun with; checkpoints of another one are removed."""
    made_of = fingerprint({**work.made_of, "config": work.config.model_dump(mode="json", exclude={"precision"})})
    made_of = fingerprint([made_of, work.start.model_dump(mode="json"), worker.world])
    path = work.out / _SETUP

    def known() -> dict[str, Any] | None:
        found = read_json(path, _REMEDY, dict[str, Any]) if path.exists() else {}
        return found if found.get("made_of") == made_of else None

    def begin() -> None:
        for name in (CHECKPOINTS, _START, _BEFORE, _FINISHED, REFRESH):
            discard(work.out / name)
        write_json(path, {"made_of": made_of, "precision": choose(work.config.precision).precision})

    Coordinator(work.out, worker, stage="recipe").once("setup", lambda: known() is not None, begin)
    found = known() or {}
    choose(work.config.precision, begun=found.get("precision")).tell("train.precision")
    return found


def _trainer(work: Fit, worker: Worker, *, bfloat16: bool) -> Any:
    import torch

    from retro.recipes.dense_retriever.evaluation.evaluator import HeldOut
    from retro.recipes.dense_retriever.training.losses.build import build_loss
    from retro.recipes.dense_retriever.training.trainer import RetrieverTrainer, StepWatch, arguments

    config, scratch = work.config, work.out / _START
    if work.start.tiny is not None:
        coordinator = Coordinator(work.out, worker, stage="recipe")
        coordinator.once("start", scratch.exists, lambda: _make_start(work))
    model = open_start(work.start, work.words(), config.seed, scratch)
    torch.manual_seed(config.seed)
    if config.lora is not None:
        add_lora(model, config.lora)
    loss = build_loss(config, work.start, model)

    def after(step: int) -> None:
        if work.refresh is None:
            return
        if worker.rank == 0:
            work.refresh(model, step)
        if worker.world > 1:
            torch.distributed.barrier()

    steps = work.plan.steps
    logged = math.gcd(config.checkpoint_every, _LOGGED)
    return RetrieverTrainer(
        columns=work.columns, steps=steps, worker=worker, model=model, loss=loss,
        args=arguments(
            config, steps, work.out / CHECKPOINTS, bfloat16=bfloat16, world=worker.world, logged=logged
        ),
        evaluator=HeldOut(work.valid[: config.valid_pairs], config, work.start) if config.evaluate_every else None,
        callbacks=[StepWatch(config, worker, loss, steps, after)],
    )  # fmt: skip


def _make_start(work: Fit) -> None:
    from retro.recipes.dense_retriever.training.starting_model import make_tiny

    if work.start.tiny is not None:
        make_tiny(work.start.tiny, work.words(), work.config.seed, work.out / _START)


def add_lora(model: Any, config: LoraConfig) -> None:
    """Put adapters into the encoder of a model; all else is frozen.

    Raises:
        DependencyError: peft is missing.
        ConfigError: No layer has one of the names.
    """
    peft = import_optional("peft", extra="retriever", use="adapts by LoRA")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    try:
        model[0].model = peft.get_peft_model(model[0].model, settings)
    except ValueError:
        names = sorted({name.rpartition(".")[2] for name, _ in model[0].model.named_modules()} - {""})
        need = f"needs names of linear layers of the model; its modules are {', '.join(names)[:200]}"
        raise ConfigError("train.lora.targets", config.targets, need) from None


def merge_lora(model: Any) -> None:
    """Add the adapters to the weights, and take them out."""
    model[0].model = model[0].model.merge_and_unload()


def _before(work: Fit, trainer: Any, worker: Worker) -> dict[str, Any]:
    """Accuracy of the starting model."""
    if trainer.evaluator is None or worker.rank:
        return {}
    path = work.out / _BEFORE
    if not path.exists():
        write_json(path, {"step": 0, **_measured(trainer.evaluator(trainer.model))})
    return dict(read_json(path, _REMEDY, dict[str, Any]))


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"eval_{name}": float(value) for name, value in metrics.items()}


def _finish(work: Fit, trainer: Any, worker: Worker, *, before: Mapping[str, Any], kept: int, precision: str) -> Made:
    from retro.recipes.dense_retriever.evaluation.evaluator import HeldOut
    from retro.recipes.dense_retriever.training.trainer import curve

    if worker.rank:
        return Made()
    model, config = trainer.model, work.config
    if config.lora is not None:
        merge_lora(model)
    model.eval()
    held_out = HeldOut(work.valid[: config.valid_pairs], config, work.start)
    after = _measured(held_out(model))
    objective = str(getattr(config, "objective", ""))
    counts = {
        "steps": work.plan.steps, "kept_step": kept, "deferred_pairs": work.plan.deferred,
        "left_out_pairs": work.plan.left_out, "valid_pairs": min(len(work.valid), config.valid_pairs),
    }  # fmt: skip
    facts = {"objective": objective, "temperature": config.temperature, "batch": config.batch_size, **counts}
    files = save_model(model, work.start, work.out, facts)
    write_items(work.out / CURVE, [*([before] if before else []), *curve(trainer.state.log_history)])
    rounded = {name: round(value, 6) for name, value in after.items()}
    report = {**rounded, "precision": precision, **work.seen()}
    files = [*files, CURVE]
    # Written last: a step that is killed behind this has nothing left to do.
    write_json(work.out / _FINISHED, {"files": files, "counts": counts, "report": report})
    _discard_scratch(work.out)
    log.info("retriever: %d steps of %s, %s", work.plan.steps, objective, _line(before, after))
    return Made(files=files, counts=counts, report=report)


def _finished(out: Path) -> Made | None:
    path = out / _FINISHED
    if not path.exists():
        return None
    found = read_json(path, _REMEDY, dict[str, Any])
    _discard_scratch(out)
    return Made(files=found["files"], counts=found["counts"], report=found["report"])


def _discard_scratch(out: Path) -> None:
    for name in (CHECKPOINTS, _START, REFRESH):
        discard(out / name)


def _line(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    shown = ("eval_top1", "eval_top5", "eval_mrr")
    parts = [f"{name.removeprefix('eval_')} {after[name]:.4f}" for name in shown if name in after]
    start = f" (before: top5 {before['eval_top5']:.4f})" if "eval_top5" in before else ""
    return ", ".join(parts) + start
