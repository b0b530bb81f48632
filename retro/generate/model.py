"""A trained checkpoint, opened to go on from prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import ConfigError
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Decoder
from retro.mcore import parallel
from retro.mcore.inference import for_inference
from retro.training.checkpoint import load_stage
from retro.training.config import ParallelConfig

log = logging.getLogger(__name__)


def open_decoder(
    checkpoint: Path,
    layout: ParallelConfig,
    end: int | Sequence[int],
    *,
    bfloat16: bool = False,
    sequence_length: int | None = None,
) -> Decoder:
    """The model of a checkpoint, ready to go on from prompts.

    Args:
        checkpoint: One, or a stage directory whose newest is taken.
        layout: Ranks that share the model, whatever it was trained on. All of them make the same calls. What spreads
            a batch or the work of a training step has no use here: `sequence` and `distributed_optimizer` are ignored.
        end: The id that ends an answer, or all of those that do.
        bfloat16: Compute in bfloat16.
        sequence_length: Tokens of a sequence, see `load_stage`; None: as the checkpoint says.

    Raises:
        ConfigError: The layout does not fit the model or the processes, has stages that take turns, or leaves
            processes over for other copies.
        ArtifactError: The checkpoint is missing or damaged.
    """
    layout = _for_decoding(layout)
    (model,), info = load_stage(checkpoint, layout, bfloat16=bfloat16, sequence_length=sequence_length)
    for_inference(model)
    log.info("%s: opened for decoding, step %d", info.path, info.step)
    return CachedDecoder(model, end)


def _for_decoding(layout: ParallelConfig) -> ParallelConfig:
    if layout.virtual_pipeline > 1:
        need = "needs 1 while generating: a token goes through the stages once, so they cannot take turns"
        raise ConfigError("parallel.virtual_pipeline", layout.virtual_pipeline, need)
    copies, rest = divmod(parallel.world_size(), layout.model_ranks)
    if copies > 1 and not rest:
        need = (
            f"leaves {copies} copies of the model, needs 1 while generating. Start {layout.model_ranks} processes, or "
            "have several runs answer slices of the questions (generate.start and generate.count)"
        )
        raise ConfigError("parallel.tensor x parallel.pipeline", layout.model_ranks, need)
    return layout.model_copy(update={"sequence": False, "distributed_optimizer": False})
