"""A trained prefix with the language model that it was trained on, opened for use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from retro.common.errors import ArtifactError
from retro.model.model import RetroModel
from retro.model.weight_names import is_added_module
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.training.encoder import KnowledgeEncoder
from retro.recipes.dynamic_prefix.training.encoder_files import known_config
from retro.recipes.dynamic_prefix.training.parts import encoder_of, modules_of
from retro.recipes.dynamic_prefix.training.train import ENCODER, PREFIX_RUN
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo
from retro.training.config import ParallelConfig
from retro.training.loop import add_modules


class PrefixModel(NamedTuple):
    """A language model that reads prefixes, and what makes them."""

    model: RetroModel
    """`model(…, prefix=parts.prefix_inputs(model, ids, real))`."""
    encoder: KnowledgeEncoder
    config: PrefixConfig


def prefix_checkpoint(directory: Path, step: int | None = None) -> Path:
    """The checkpoint of a trained prefix.

    Args:
        directory: Of the step `train`.
        step: Which; None: the newest.

    Raises:
        ArtifactError: There is none.
    """
    return checkpoint.find(directory / PREFIX_RUN, step)


def prefix_modules(directory: Path) -> Callable[[Sequence[RetroModel]], None]:
    """What puts the encoder and the prefix beside a network before it is filled (`checkpoint.build_filled`).

    Args:
        directory: Of the step `train`.
    """
    config = known_config(directory / ENCODER)

    def prepare(chunks: Sequence[RetroModel]) -> None:
        add_modules(chunks, chunks[0].shape, modules_of(directory / ENCODER, config, initial=False))

    return prepare


def load_prefix_model(
    directory: Path,
    *,
    bfloat16: bool = False,
    layout: ParallelConfig | None = None,
    base: Path | None = None,
    step: int | None = None,
) -> PrefixModel:
    """The model of a step `train`, ready for inference.

    Args:
        directory: The step's.
        bfloat16: Compute in bfloat16; gates stay in fp32.
        layout: Ranks to spread it over.
        base: Where the language model is, if it was moved.
        step: Which checkpoint; None: the newest.

    Raises:
        ArtifactError: A file is missing or damaged, or the language model is another than it was trained on.
    """
    layout = layout or ParallelConfig()
    info = checkpoint.open_stage(prefix_checkpoint(directory, step), layout)
    stored = checkpoint.open_weights(info, base)
    (model,) = checkpoint.build_filled(info, stored, layout, bfloat16=bfloat16, prepare=prefix_modules(directory))
    _require_all(model, info, set(stored.sizes))
    return PrefixModel(model, encoder_of(model), known_config(directory / ENCODER))


def _require_all(model: RetroModel, info: CheckpointInfo, stored: set[str]) -> None:
    wanted = {name for name in model.state_dict() if is_added_module(name) and not name.endswith("_extra_state")}
    lacking = sorted(wanted - stored)
    if lacking:
        problem = f"lacks {len(lacking)} weights of the encoder and the prefix, {lacking[0]} the first"
        raise ArtifactError(info.path, problem, "Give the folder of a step `train`")
