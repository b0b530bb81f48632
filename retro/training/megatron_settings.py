"""From settings to what megatron-core wants: process groups, the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable

from retro.mcore.engine import EngineSettings, WeightGroup
from retro.mcore.lora import is_adapter
from retro.mcore.parallel import Layout
from retro.model.names import is_gate, is_retrieval
from retro.training.config import ParallelConfig, TrainConfig


def group_layout(layout: ParallelConfig) -> Layout:
    """The groups that share one copy of the model."""
    return Layout(
        tensor=layout.tensor,
        sequence=layout.sequence,
        pipeline=layout.pipeline,
        virtual_pipeline=layout.virtual_pipeline,
        stage_layers=layout.stage_layers,
    )


def engine_settings(config: TrainConfig, layout: ParallelConfig) -> EngineSettings:
    """What the optimizer and its schedule take from the settings."""
    return EngineSettings(
        lr=config.lr,
        min_lr=config.lr * config.min_lr_fraction,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_length,
        weight_decay=config.weight_decay,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        clip=config.clip,
        bfloat16=config.bfloat16,
        distributed_optimizer=layout.distributed_optimizer,
        saved=saved_beside_base(config),
        groups=weight_groups(config),
    )


def weight_groups(config: TrainConfig) -> tuple[WeightGroup, ...]:
    """Weights with rates of their own; none where the settings give all the same."""
    own = config.retrieval_rates
    warmup = config.warmup_steps if own.warmup_steps is None else own.warmup_steps
    groups = (
        WeightGroup(name="gates", holds=is_gate, lr_factor=own.gate_lr_factor, warmup_steps=warmup),
        WeightGroup(name="retrieval", holds=_reads, lr_factor=own.lr_factor, warmup_steps=warmup),
    )
    return tuple(one for one in groups if (one.lr_factor, one.warmup_steps) != (1.0, config.warmup_steps))


def saved_beside_base(config: TrainConfig) -> Callable[[str], bool] | None:
    """Predicate on names: whether a checkpoint holds a weight, another one holding the rest; None: it holds all.

    Adapters, and what is trained whole beside them.
    """
    if config.lora is None:
        return None
    if config.train_only == "retrieval":
        return _is_adapter_or_retrieval
    return is_adapter


def _reads(name: str) -> bool:
    return is_retrieval(name) and not is_gate(name)


def _is_adapter_or_retrieval(name: str) -> bool:
    return is_adapter(name) or is_retrieval(name)
