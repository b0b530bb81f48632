"""A model whose adapters stay beside its weights: to compare both, to merge them later, to choose among several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from retro.mcore.lora import Adapted, AdapterChoice, detach
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.model import RetroModel
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules, add_modules
from retro.training.lora_weights import MergedWeights, NamedAdapters, SeparateWeights, StoredWeights, UnadaptedWeights
from retro.training.trained_weights import attach_all, named_layers

OWN = ""
"""What the adapters of the checkpoint itself are called."""


@dataclass(frozen=True, kw_only=True)
class SeparateStage:
    """This rank's part of a model, with adapters."""

    chunks: list[RetroModel]
    info: CheckpointInfo
    weights: SeparateWeights
    choice: AdapterChoice

    def merge(self) -> None:
        """Add the checkpoint's own adapters to the weights, as `load_stage` does: in float32, read again from disk.

        Raises:
            ValueError: There are other adapters, or none.
        """
        own, adapters = self.info.adapters, self.weights.adapters
        if own is None or [one.name for one in adapters] != [OWN]:
            raise ValueError("only the checkpoint's own adapters, alone, can be merged")
        for chunk in self.chunks:
            for _, module in named_layers(chunk):
                if isinstance(module, Adapted):
                    detach(module)
        merged = MergedWeights(self.weights.base, adapters[0].stored, own)
        checkpoint.refill(self.chunks, merged, {f"{layer}.weight" for layer in self.weights.layers})


def load_separate(
    path: Path,
    layout: ParallelConfig,
    *,
    bfloat16: bool = False,
    sequence_length: int | None = None,
    others: Mapping[str, CheckpointInfo] | None = None,
    modules: AddModules | None = None,
) -> SeparateStage:
    """As `load_stage`, with adapters kept apart from the weights.

    Args:
        path: A checkpoint, or a stage directory whose newest checkpoint is taken.
        layout: Ranks to spread it over.
        bfloat16: Compute in bfloat16.
        sequence_length: Tokens of a sequence, see `load_stage`.
        others: Adapters on this checkpoint, by name, of its architecture; its own, if it has any, are merged then.
        modules: Gives the further modules that the checkpoint was trained with.

    Raises:
        ConfigError, ArtifactError: As `load_stage`.
    """
    info = checkpoint.open_stage(path, layout, sequence_length)
    adapters = [_named(name, one) for name, one in (others or {}).items()]
    base: StoredWeights
    if info.adapters is not None and not adapters:
        adapters = [_named(OWN, info)]
        base = UnadaptedWeights(checkpoint.open_base(info, info.adapters), adapters[0].stored)
    else:
        for one in (others or {}).values():
            checkpoint.verify(one.path)
        base = checkpoint.open_weights(info)
    weights = SeparateWeights(base, adapters)
    scales = {one.name: (one.info.rank, one.info.alpha / one.info.rank) for one in adapters}
    choice = AdapterChoice(scales, torch.bfloat16 if bfloat16 else torch.float32)
    attach = partial(_attach, info=info, weights=weights, choice=choice)

    def prepare(chunks: Sequence[RetroModel]) -> None:
        if modules is not None:
            add_modules(chunks, info.shape, modules)
        attach(chunks)

    chunks = checkpoint.build_filled(info, weights, layout, bfloat16=bfloat16, prepare=prepare)
    return SeparateStage(chunks=chunks, info=info, weights=weights, choice=choice)


def _named(name: str, info: CheckpointInfo) -> NamedAdapters:
    if info.adapters is None:
        raise ValueError(f"{info.path} holds no adapters")
    return NamedAdapters(name=name, info=info.adapters, stored=StoredTensors(info.path))


def _attach(
    chunks: Sequence[RetroModel], *, info: CheckpointInfo, weights: SeparateWeights, choice: AdapterChoice
) -> None:
    if choice.rank:
        attach_all(chunks, info.shape, weights.layers, rank=choice.rank, choice=choice)
