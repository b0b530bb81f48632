"""From settings to what megatron-core wants: process groups, the optimizer and its schedule."""

from __future__ import annotations

from retro.mcore.engine import EngineSettings
from retro.mcore.parallel import Layout
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
        adapters=config.lora is not None,
    )
