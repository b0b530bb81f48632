"""The trainer of sentence-transformers with what a resumable training needs, and nothing of its loop replaced.

Batches, crops, negatives and dropout of a step are functions of seed and step. A checkpoint holds weights and what the
loss keeps (a queue, a momentum encoder) as safetensors, and AdamW's state, the schedule's and the trainer's as
transformers writes them. transformers reads `optimizer.pt` and `scheduler.pt` with `weights_only=True`, which builds
tensors and numbers alone; and before it does, `checkpoint.json`, written last, says that every byte is as it was
written. States of random generators are neither kept nor read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from retro.common.artifacts import describe_files, wrong_bytes
from retro.common.errors import ArtifactError, TrainingError
from retro.common.files import discard, read_json, write_json
from retro.common.launcher import Worker
from retro.common.progress import Progress
from retro.recipes.dense_retriever.training.batches import Columns
from retro.recipes.dense_retriever.training.config import FitConfig
from retro.recipes.dense_retriever.training.crops import generator

log = logging.getLogger(__name__)

WEIGHTS, DONE = "weights.safetensors", "checkpoint.json"
_NAMES = ("checkpoint-", "optimizer.pt", "scheduler.pt", "trainer_state.json")
_SCHEDULES = {
    "constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine", "plateau": "reduce_lr_on_plateau",
}  # fmt: skip
_TIMEOUT_S = 7 * 24 * 3600
"""Seconds that processes wait for each other: one of them mines again while the others wait, and to embed millions of
passages takes longer than torch's 30 minutes. A process that has died is torchrun's to notice, at once."""
_REMEDY = "Delete the folder; training goes on from the checkpoint before it"


def arguments(config: FitConfig, steps: int, out: Path, *, bfloat16: bool, world: int, logged: int) -> Any:
    """Arguments of the trainer: no reports to anybody, no network.

    Args:
        config: What to do.
        steps: In all.
        out: Folder of the checkpoints.
        bfloat16: Whether products are computed in it.
        world: Processes.
        logged: Steps between two records of the loss.
    """
    plateau = config.plateau
    own: dict[str, Any] = {}
    if config.schedule == "plateau":
        own["lr_scheduler_kwargs"] = {
            "mode": "min" if plateau.metric == "loss" else "max", "factor": plateau.factor,
            "patience": plateau.patience, "cooldown": plateau.cooldown, "min_lr": plateau.min_rate,
        }  # fmt: skip
    if config.evaluate_every:
        own |= {
            "eval_strategy": "steps", "eval_steps": config.evaluate_every,
            "metric_for_best_model": plateau.metric, "greater_is_better": plateau.metric != "loss",
        }  # fmt: skip
    # For every training: a process's first one makes the group, and the next one gets the same.
    own["ddp_timeout"] = _TIMEOUT_S
    if world > 1 and not torch.cuda.is_available():
        own["ddp_backend"] = "gloo"
    return SentenceTransformerTrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=max(1, config.batch_size // world),
        learning_rate=config.learning_rate, weight_decay=config.weight_decay, max_grad_norm=config.clip,
        lr_scheduler_type=_SCHEDULES[config.schedule], warmup_steps=_warmup(config, steps),
        optim="adamw_torch", bf16=bfloat16, use_cpu=not torch.cuda.is_available(), seed=config.seed,
        logging_steps=logged, logging_nan_inf_filter=False, save_steps=config.checkpoint_every, save_total_limit=2,
        save_strategy="steps", report_to="none", disable_tqdm=True, dataloader_num_workers=0,
        remove_unused_columns=False, ddp_find_unused_parameters=False, **own,
    )  # fmt: skip


def _warmup(config: FitConfig, steps: int) -> int:
    return 0 if config.schedule == "plateau" else round(config.warmup_share * steps)


@dataclass(frozen=True)
class _StepTexts:
    """The texts of each step, this process's part of them, as a data set of as many items as steps."""

    columns: Callable[[int], Columns]
    steps: int
    worker: Worker

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        found = self.columns(step)
        whole = len(next(iter(found.values())))
        size = whole // self.worker.world
        mine = range(self.worker.rank * size, (self.worker.rank + 1) * size)
        return [{name: values[place] for name, values in found.items()} for place in mine]


class RetrieverTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """SentenceTransformerTrainer with batches of ours, and checkpoints that are whole or not there."""

    def __init__(self, *, columns: Callable[[int], Columns], steps: int, worker: Worker, **settings: Any) -> None:
        self._texts = _StepTexts(columns, steps, worker)
        super().__init__(**settings)
        self.remove_callback(PrinterCallback)

    def add_model_card_callback(self, default_args_dict: Mapping[str, Any]) -> None:
        """The model card is ours."""

    def get_train_dataloader(self) -> Any:
        """One item is a step; its texts are looked up when its turn comes, after the step before it."""
        # A generator of its own: the loader would draw from the global one.
        return DataLoader(
            self._texts,  # type: ignore[arg-type]
            batch_sampler=[[step] for step in range(len(self._texts))],
            collate_fn=lambda found: self.data_collator(found[0]),
            generator=torch.Generator(),
        )

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """See the base class.

        Raises:
            TrainingError: The loss is not finite.
        """
        loss: Tensor = super().training_step(*given, **named)
        if not bool(torch.isfinite(loss)):
            problem = f"step {self.state.global_step + 1}: the loss is {float(loss)}"
            raise TrainingError(f"{problem}. Lower learning_rate, or raise temperature")
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # Cloned: weights that two modules share would be refused.
        save_file({name: one.detach().cpu().contiguous().clone() for name, one in self._all()}, folder / WEIGHTS)

    def _all(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that training changes."""
        yield from ((f"model.{name}", one) for name, one in self.model.state_dict(keep_vars=True).items())
        yield from ((f"loss.{name}", one) for name, one in self.loss.kept.items())

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        found = load_file(Path(checkpoint_path) / WEIGHTS)
        with torch.no_grad():
            for name, one in self._all():
                if name not in found or found[name].shape != one.shape:
                    raise ArtifactError(Path(checkpoint_path) / WEIGHTS, f"has no {name} of this model", _REMEDY)
                one.copy_(found[name])

    def load_checkpoint(self, folder: Path) -> None:
        """Take the weights of a checkpoint of this training.

        Raises:
            ArtifactError: It is not whole, or of another model.
        """
        require_checkpoint(folder)
        self._load_from_checkpoint(str(folder))

    def _save_rng_state(self, output_dir: str) -> None:
        pass

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.is_world_process_zero():
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != DONE)
            # Written last: a checkpoint without it was cut short, and is not gone on from.
            write_json(folder / DONE, {"files": describe_files(folder, names)})


def require_checkpoint(folder: Path) -> None:
    """Check every byte of a checkpoint.

    Raises:
        ArtifactError: A file is missing or changed.
    """
    described = read_json(folder / DONE, _REMEDY, dict[str, Any])
    for name, known in described["files"].items():
        if problem := _wrong(folder / name, known):
            raise ArtifactError(folder / name, problem, _REMEDY)


def _wrong(file: Path, known: Mapping[str, Any]) -> str:
    return wrong_bytes(file, known) if file.is_file() else "is missing"


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that is whole; those that were cut short are removed.

    Raises:
        ArtifactError: A file of it was changed after it was written.
    """
    found = sorted(out.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    while found and not (found[-1] / DONE).exists():
        log.info("%s was cut short; it is removed", found[-1])
        discard(found.pop())
    if not found:
        return None
    require_checkpoint(found[-1])
    return found[-1]


class StepWatch(TrainerCallback):  # type: ignore[misc]
    """What happens around a step: dropout's seed, a look for a collapse, what is due after it, a line of progress."""

    def __init__(self, config: FitConfig, worker: Worker, loss: Any, steps: int, after: Callable[[int], None]) -> None:
        self._config, self._worker, self._loss, self._after = config, worker, loss, after
        self._bar = Progress(steps, what="retriever", unit="steps")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seed dropout by the number of the step."""
        random = generator(self._config.seed, "dropout", state.global_step, self._worker.rank)
        torch.manual_seed(int(random.integers(2**63)))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise TrainingError for a collapse; do what is due."""
        step = int(state.global_step)
        found = self._loss.spread
        if self._config.collapse and step >= self._config.collapse_after and found is not None:
            require_spread(found, step, self._config)
        self._after(step)
        self._bar.advance(step - self._bar.count)


def require_spread(found: float, step: int, config: FitConfig) -> None:
    """Stop a training whose embeddings have become one.

    Raises:
        TrainingError: They have.
    """
    if math.isfinite(found) and found >= config.collapse:
        return
    objective = getattr(config, "objective", "")
    remedy = "raise vicreg.variance" if objective == "vicreg" else "lower learning_rate, or raise batch_size"
    raise TrainingError(
        f"step {step}: the embeddings have collapsed: their spread is {found:.2g}, below collapse = {config.collapse:g}"
        f"; every text has nearly the same vector. For {objective}, {remedy}; collapse = 0 goes on"
    )


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the trainer recorded, without what differs from run to run: one record for each step that has any."""
    found: dict[int, dict[str, Any]] = {}
    for one in history:
        row = found.setdefault(int(one["step"]), {})
        row |= {name: value for name, value in one.items() if not _timed(name)}
    # The trainer's own file of a checkpoint has names in alphabetical order.
    return [{"step": step, **dict(sorted(found[step].items()))} for step in sorted(found)]


def _timed(name: str) -> bool:
    return name in ("step", "epoch", "total_flos") or name.endswith(("runtime", "per_second")) or name == "train_loss"
