"""One trainable model on megatron-core's own DDP, optimizer, learning-rate schedule and forward-backward schedule."""

# Dims: B sequences of a micro batch, S tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from retro.mcore.parallel import sum_over_data_parallel

MicroBatch = TypeVar("MicroBatch")

# Layers differ (some read neighbors), so each is saved under its own number.
_SHARDING = {"non_homogeneous_layers": True}


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the optimizer and its schedule need to know, in optimizer steps."""

    lr: float
    min_lr: float
    schedule: str
    """cosine, linear or constant."""
    warmup_steps: int
    decay_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    clip: float
    bfloat16: bool


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
"""From the model and a micro batch to [B, S] losses and their [B, S] mask."""


class Engine:
    """Owns the wrapped model, its optimizer and its learning-rate schedule."""

    def __init__(self, model: nn.Module, settings: EngineSettings) -> None:
        self.module = model
        config: Any = model.config
        config.calculate_per_token_loss = True
        config.finalize_model_grads_func = finalize_model_grads
        self.ddp = DistributedDataParallel(
            config=config,
            ddp_config=DistributedDataParallelConfig(grad_reduce_in_fp32=True),
            module=model,
        )
        self.optimizer = get_megatron_optimizer(_optimizer_config(settings), [self.ddp])
        config.grad_scale_func = self.optimizer.scale_loss
        self.scheduler = _scheduler(self.optimizer, settings)

    def step(self, micro_batches: Sequence[MicroBatch], token_losses: TokenLosses[MicroBatch]) -> StepResult:
        """Forward and backward over all micro batches, then one optimizer step.

        The gradient is that of the mean loss over all labels that count in the global batch, however they are
        spread over micro batches and ranks. A loss that is not finite leaves the weights as they were.
        """
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        self.scheduler.step(1)
        lr = float(self.optimizer.param_groups[0]["lr"])
        total = _run_schedule(self.ddp, micro_batches, token_losses, forward_only=False)
        loss, tokens = _mean(total)
        if not torch.isfinite(torch.tensor(loss)):
            return StepResult(loss, tokens, float("nan"), lr)
        _, grad_norm, _ = self.optimizer.step()
        return StepResult(loss, tokens, float(grad_norm or 0.0), lr)

    def sharded_state(self, *, loading: bool) -> dict[str, Any]:
        """What a checkpoint holds: weights, optimizer state and the place in the schedule."""
        model = self.weights()
        return {
            "model": model,
            "optimizer": self.optimizer.sharded_state_dict(model, is_loading=loading, metadata=_SHARDING),
            "schedule": self.scheduler.state_dict(),
        }

    def weights(self) -> dict[str, Any]:
        """The sharded weights alone."""
        describe: Any = self.module.sharded_state_dict
        state: dict[str, Any] = describe(metadata=_SHARDING)
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `sharded_state` gave and a checkpoint filled."""
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take weights only; the optimizer starts clean, its master weights equal to the new ones."""
        self.module.load_state_dict(weights)
        self.optimizer.reload_model_params()


def evaluate(
    model: nn.Module, micro_batches: Sequence[MicroBatch], token_losses: TokenLosses[MicroBatch]
) -> tuple[float, int]:
    """Summed loss and number of labels of the micro batches, over all ranks, without dropout or gradients."""
    training = model.training
    model.eval()
    with torch.no_grad():
        total = _run_schedule(model, micro_batches, token_losses, forward_only=True)
    model.train(training)
    return float(total[0]), int(total[1])


def _run_schedule(
    model: nn.Module, micro_batches: Sequence[MicroBatch], token_losses: TokenLosses[MicroBatch], *, forward_only: bool
) -> Tensor:
    """[2] summed loss and number of labels, over all micro batches and data parallel ranks."""

    def forward_step(iterator: Any, module: nn.Module) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        losses_BS, mask_BS = token_losses(module, next(iterator))

        def reduce(output_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            loss, count = (output_BS.float() * mask_BS).sum(), mask_BS.sum()
            return loss, count.to(torch.int), torch.stack((loss.detach().double(), count.double()))

        return losses_BS, reduce

    reduced = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(micro_batches),
        model=[model],
        num_microbatches=len(micro_batches),
        seq_length=1,
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return sum_over_data_parallel(torch.stack(reduced).sum(dim=0))


def _mean(total: Tensor) -> tuple[float, int]:
    loss, count = float(total[0]), int(total[1])
    return (loss / count if count else 0.0), count


def _optimizer_config(settings: EngineSettings) -> OptimizerConfig:
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
        params_dtype=torch.bfloat16 if settings.bfloat16 else torch.float32,
    )


def _scheduler(optimizer: Any, settings: EngineSettings) -> OptimizerParamScheduler:
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=settings.warmup_steps,
        lr_decay_steps=settings.decay_steps,
        lr_decay_style=settings.schedule,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=settings.decay_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
