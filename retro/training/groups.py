"""From the settings of a layout to the process groups of megatron-core."""

from __future__ import annotations

from retro.mcore.parallel import Layout
from retro.training.config import ParallelConfig


def group_layout(layout: ParallelConfig) -> Layout:
    """The groups that share one copy of the model."""
    return Layout(
        tensor=layout.tensor,
        sequence=layout.sequence,
        pipeline=layout.pipeline,
        virtual_pipeline=layout.virtual_pipeline,
        stage_layers=layout.stage_layers,
    )
