"""One trainable model on megatron-core's own DDP, optimizer, learning-rate schedule and forward-backward schedule."""

# Dims: B sequences of a micro batch, S tokens.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, Protocol, TypeVar

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from retro.common.errors import ArtifactError
from retro.mcore import checkpoint, optimizer_state
from retro.mcore.cpu import device
from retro.mcore.parallel import from_last_stage, sum_over_data_parallel

MicroBatch = TypeVar("MicroBatch")

_WARMUP = "warmup_steps"
"""In a parameter group: its own warm-up."""


@dataclass(frozen=True, kw_only=True)
class WeightGroup:
    """Weights that learn at a rate of their own: megatron-core's parameter groups with an override."""

    name: str
    holds: Callable[[str], bool]
    """Predicate on the name of a weight. No weight may belong to two groups."""
    lr_factor: float
    """Times the learning rate of the rest."""
    warmup_steps: int
    """Steps of linear warm-up from zero."""
    decays: bool = True
    """Whether weight decay applies to its matrices."""


class OptimizerSettings(Protocol):
    """What the optimizer and its schedule read of a stage's training settings, as `TrainConfig` has them."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def min_lr(self) -> float:
        """Learning rate after the decay."""

    @property
    def schedule(self) -> str:
        """cosine, linear or constant."""

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up from zero."""

    @property
    def decay_length(self) -> int:
        """The step at which the decay ends."""

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay, on matrices only."""

    @property
    def beta1(self) -> float:
        """Adam's first moment."""

    @property
    def beta2(self) -> float:
        """Adam's second moment."""

    @property
    def epsilon(self) -> float:
        """Adam's denominator."""

    @property
    def clip(self) -> float:
        """Norm to which gradients are clipped."""

    @property
    def bfloat16(self) -> bool:
        """Whether the model computes in bfloat16."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step reports."""

    loss: float
    """Mean over the labels that count, over all ranks and micro batches."""
    tokens: int
    """Labels that counted."""
    grad_norm: float
    """Before clipping."""
    lr: float
    """The learning rate this step used."""


TokenLosses = Callable[[nn.Module, MicroBatch], tuple[Tensor, Tensor]]
"""From a group of layers and a micro batch to what continues to the next, or on the last stage [B, S] losses; and the
losses' [B, S] mask (of no meaning elsewhere)."""

SeenLosses = Callable[[MicroBatch, Tensor, Tensor], None]
"""Called with a micro batch, its [B, S] losses and their [B, S] mask."""


@dataclass(frozen=True)
class Work(Generic[MicroBatch]):
    """What one pass over the model works on."""

    micro_batches: Sequence[MicroBatch]
    transport_rows: int
    """Rows of the tensor that travels between stages, before sequence parallelism shares them out."""
    sequences: int
    """In one micro batch."""


Chunk = TypeVar("Chunk", bound=nn.Module)


class Engine(Generic[Chunk]):
    """Owns the wrapped layers of this rank, their optimizer and its learning-rate schedule."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        settings: OptimizerSettings,
        *,
        distributed_optimizer: bool = False,
        saved: Callable[[str], bool] | None = None,
        groups: Sequence[WeightGroup] = (),
    ) -> None:
        """Wrap a model.

        Args:
            chunks: This stage's groups of layers, in order; the whole model where there is one stage.
            settings: Of the optimizer and its schedule.
            distributed_optimizer: Share optimizer state and master weights out over the data parallel ranks.
            saved: Predicate on the name of a weight: whether a checkpoint holds it, another one holding the rest;
                None: it holds all.
            groups: Weights with learning rates of their own.
        """
        self.chunks = list(chunks)
        self.saved = saved
        optimizer_config = _optimizer_config(settings, distributed_optimizer)
        for chunk in self.chunks:
            config: Any = chunk.config
            config.calculate_per_token_loss = True
            config.finalize_model_grads_func = finalize_model_grads
        ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=distributed_optimizer)
        self.wrapped = [
            DistributedDataParallel(config=chunk.config, ddp_config=ddp, module=chunk, disable_bucketing=number > 0)
            for number, chunk in enumerate(self.chunks)
        ]
        self.optimizer = get_megatron_optimizer(
            optimizer_config,
            self.wrapped,
            _overrides(optimizer_config, settings, groups),
            use_gloo_process_groups=False,
        )
        for chunk in self.chunks:
            chunk.config.grad_scale_func = self.optimizer.scale_loss  # type: ignore[union-attr]
        self.scheduler = _scheduler(self.optimizer, settings)
        self.steps = 0

    def step(self, work: Work[MicroBatch], token_losses: TokenLosses[MicroBatch]) -> StepResult:
        """Forward and backward over all micro batches, then one optimizer step.

        The gradient is that of the mean loss over all labels that count in the global batch, however they are
        spread over micro batches and ranks. A loss that is not finite leaves the weights as they were.
        """
        for wrapped in self.wrapped:
            wrapped.zero_grad_buffer()
        self.optimizer.zero_grad()
        self.scheduler.step(1)
        lr = float(self.scheduler.get_lr({}))
        loss, tokens = _mean(_run_schedule(self.wrapped, work, token_losses, forward_only=False))
        if not math.isfinite(loss):
            return StepResult(loss, tokens, float("nan"), lr)
        _, grad_norm, _ = self.optimizer.step()
        self.steps += 1
        return StepResult(loss, tokens, float(grad_norm or 0.0), lr)

    def weights(self) -> dict[str, Any]:
        """The sharded weights alone, by group of layers."""
        return sharded_weights(self.chunks)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: weights, optimizer state and the place in the schedule. Every rank calls this."""
        weights = self._saved()
        progress = {"steps": self.steps, "schedule": self.scheduler.state_dict()}
        optimizer = optimizer_state.saved(self.optimizer, weights)
        # An empty entry would be taken for settings that ranks must agree on: a rank whose state another one writes,
        # or a stage where nothing is trained, has none.
        parts = {"weights": weights, "optimizer": optimizer}
        return {"progress": progress} | {name: part for name, part in parts.items() if part}

    def resume(self, directory: Path) -> None:
        """Take back what a checkpoint of `state` holds, written under any layout.

        Raises:
            ArtifactError: The checkpoint is damaged, unsafe, or lacks something.
        """
        weights = self._saved()
        parts = {"weights": weights, "optimizer": optimizer_state.wanted(self.optimizer, weights)}
        found = checkpoint.load({name: part for name, part in parts.items() if part}, directory)
        self._fill(found.get("weights", {}), whole=self.saved is None)
        progress = self._progress(found, directory)
        self.steps = progress["steps"]
        optimizer_state.restore(self.optimizer, self._saved(), found.get("optimizer", {}), self.steps)
        self.scheduler.load_state_dict(progress["schedule"])

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take weights only; the optimizer starts clean, its master weights equal to the new ones."""
        self._fill(weights)
        self.optimizer.reload_model_params()

    def _progress(self, found: dict[str, Any], directory: Path) -> dict[str, Any]:
        """How far training had come, as `state` gives it."""
        match found.get("progress"):
            case {"steps": int(steps), "schedule": dict(schedule)} if steps >= 0:
                lacking = self.scheduler.state_dict().keys() - schedule.keys()
                if not lacking and isinstance(schedule.get("num_steps"), int):
                    return {"steps": steps, "schedule": schedule}
        problem = f"{checkpoint.COMMON} does not say how far training had come"
        raise ArtifactError(directory, problem, "Use an older checkpoint")

    def _saved(self) -> dict[str, Any]:
        """The sharded weights that a checkpoint holds."""
        saved, weights = self.saved, self.weights()
        if saved is None:
            return weights
        kept = {
            group: {name: tensor for name, tensor in tensors.items() if saved(name)}
            for group, tensors in weights.items()
        }
        # A stage without any has no entry.
        return {group: tensors for group, tensors in kept.items() if tensors}

    def _fill(self, weights: dict[str, Any], *, whole: bool = True) -> None:
        for number, chunk in enumerate(self.chunks):
            chunk.load_state_dict(weights.get(str(number), {}), strict=whole)


def unwrap_model(module: nn.Module) -> Any:
    """A group of layers without what an engine wraps around it."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def sharded_weights(chunks: Sequence[nn.Module]) -> dict[str, Any]:
    """What this rank holds of a model's weights and where it is in the whole, by group of layers."""
    state: dict[str, Any] = {}
    for number, chunk in enumerate(chunks):
        describe: Any = chunk.sharded_state_dict
        state[str(number)] = describe(metadata=optimizer_state.metadata())
    return state


def evaluate(
    chunks: Sequence[nn.Module],
    work: Work[MicroBatch],
    token_losses: TokenLosses[MicroBatch],
    seen: SeenLosses[MicroBatch] | None = None,
) -> tuple[float, int]:
    """Summed loss and number of labels of the micro batches, over all ranks, without dropout or gradients.

    Args:
        chunks: This rank's groups of layers.
        work: The micro batches.
        token_losses: From a group of layers and a micro batch to losses.
        seen: Called, on the ranks of the last stage, with each micro batch with its losses and mask.
    """
    training = [chunk.training for chunk in chunks]
    for chunk in chunks:
        chunk.eval()
    with torch.no_grad():
        total = _run_schedule(chunks, work, token_losses, forward_only=True, seen=seen)
    for chunk, before in zip(chunks, training, strict=True):
        chunk.train(before)
    return float(total[0]), int(total[1])


def _run_schedule(
    chunks: Sequence[nn.Module],
    work: Work[MicroBatch],
    token_losses: TokenLosses[MicroBatch],
    *,
    forward_only: bool,
    seen: SeenLosses[MicroBatch] | None = None,
) -> Tensor:
    """[2] summed loss and number of labels, over all micro batches and data parallel ranks, on every rank."""

    def forward_step(iterator: Any, module: nn.Module) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        micro_batch = next(iterator)
        output, mask_BS = token_losses(module, micro_batch)

        def reduce(losses_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if seen is not None:
                seen(micro_batch, losses_BS, mask_BS)
            loss, count = (losses_BS.float() * mask_BS).sum(), mask_BS.sum()
            return loss, count.to(torch.int), torch.stack((loss.detach().double(), count.double()))

        return output, reduce

    reduced = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(work.micro_batches) for _ in chunks] if len(chunks) > 1 else iter(work.micro_batches),
        model=list(chunks),
        num_microbatches=len(work.micro_batches),
        seq_length=work.transport_rows,
        micro_batch_size=work.sequences,
        forward_only=forward_only,
    )
    found = torch.stack(reduced).sum(dim=0) if reduced else torch.zeros(2, dtype=torch.double, device=device())
    return sum_over_data_parallel(from_last_stage(found))


def _mean(total: Tensor) -> tuple[float, int]:
    loss, count = float(total[0]), int(total[1])
    return (loss / count if count else 0.0), count


def _optimizer_config(settings: OptimizerSettings, distributed_optimizer: bool) -> OptimizerConfig:
    return OptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.epsilon,
        clip_grad=settings.clip,
        bf16=settings.bfloat16,
        use_distributed_optimizer=distributed_optimizer,
        params_dtype=torch.bfloat16 if settings.bfloat16 else torch.float32,
    )


def _own_name(name: str) -> str:
    """The name of a weight without what wrappers put before it."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _overrides(
    config: OptimizerConfig, settings: OptimizerSettings, groups: Sequence[WeightGroup]
) -> dict[ParamKey, Any]:
    """megatron-core's usual groups (no weight decay on vectors), and ours on top of them."""
    overrides: dict[ParamKey, Any] = dict(get_standard_config_overrides(config))
    for group in groups:
        wanted = ParamWithNamePredicate(name=group.name, fn=lambda _, name, holds=group.holds: holds(_own_name(name)))
        overrides[ParamKey(with_name_predicate=wanted)] = {
            "max_lr": settings.lr * group.lr_factor,
            "min_lr": settings.min_lr * group.lr_factor,
            _WARMUP: group.warmup_steps,
            **({} if group.decays else {"wd_mult": 0.0}),
        }
    return overrides


class _Scheduler(OptimizerParamScheduler):
    """megatron-core's, with a warm-up of its own for each parameter group that names one."""

    def get_lr(self, param_group: dict[str, Any]) -> float:
        """The rate of a parameter group at this step."""
        everybody = int(vars(self)["lr_warmup_steps"])
        self.lr_warmup_steps = int(param_group.get(_WARMUP, everybody))
        try:
            return float(super().get_lr(param_group))
        finally:
            self.lr_warmup_steps = everybody


def learning_rate(settings: OptimizerSettings, step: int) -> float:
    """What the schedule gives for a step, counted from 1."""
    group: dict[str, Any] = {}
    _scheduler(SimpleNamespace(param_groups=[group]), settings).step(step)
    return float(group["lr"])


def _scheduler(optimizer: Any, settings: OptimizerSettings) -> _Scheduler:
    return _Scheduler(
        optimizer,
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=settings.warmup_steps,
        lr_decay_steps=settings.decay_length,
        lr_decay_style=settings.schedule,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=settings.decay_length,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
