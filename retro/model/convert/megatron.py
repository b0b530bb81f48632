"""Weights from any megatron-core GPT checkpoint in the `torch_dist` format, whoever wrote it.

Its layers may be stacked along a first axis, its norms may bear the names that Transformer Engine's fused layers give
them, and its vocabulary may be padded otherwise. What it does not say (rotary base, norm epsilon, whether norms are
stored as their distance from one …) is taken from our model section; the arguments that megatron-core pickles beside
the tensors are never opened.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from retro.common.errors import DataError, TrainingError
from retro.mcore.sharded_tensors import StoredTensors
from retro.mcore.tensor_index import INDEX
from retro.model.config import ModelShape
from retro.model.weight_names import decoder_sizes

TRACKER = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"[0-9]{1,12}")
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_FUSED = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "input_layernorm.bias": "self_attention.linear_qkv.layer_norm_bias",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    "pre_mlp_layernorm.bias": "mlp.linear_fc1.layer_norm_bias",
}
"""Names of norms in Transformer Engine's fused layers."""
_PARTS = ("embedding.", "decoder.", "output_layer.")
_PREFIXES = ("", "module.", "model.")


def find_megatron(path: Path) -> Path | None:
    """The checkpoint that a path means: one itself, or the newest of a run that megatron-core's trainer saved.

    Raises:
        DataError: The run's note of its newest checkpoint is unreadable.
    """
    if (path / INDEX).exists():
        return path
    if not (path / TRACKER).is_file():
        return None
    newest = read_tracker(path)
    if newest == "release":
        problem = f"holds {newest!r}, not the number of an iteration"
        raise DataError(path / TRACKER, problem, "Give the directory of one checkpoint itself")
    return path / f"iter_{int(newest):07d}"


def read_tracker(folder: Path) -> str:
    """A run's note of its newest checkpoint: `release`, or a number.

    Raises:
        DataError: It is missing, unreadable, or something else.
    """
    path = folder / TRACKER
    if path.exists() and not path.is_file():
        raise DataError(path, "is not a file", "Give the directory of one checkpoint itself")
    try:
        with path.open("rb") as stream:
            newest = stream.read(64).decode(errors="replace").strip()
    except OSError as error:
        remedy = f"Give the folder that holds {TRACKER} and release/ or iter_…/"
        raise DataError(path, f"is missing or cannot be read ({error.strerror})", remedy) from None
    if newest != "release" and not _ITERATION.fullmatch(newest):
        problem = f"says {newest[:40]!r}, needs 'release' or the number of an iteration"
        raise DataError(path, problem, "Give the directory of one checkpoint itself")
    return newest


class MegatronSource:
    """The weights of a checkpoint under our names."""

    def __init__(self, directory: Path, shape: ModelShape) -> None:
        """Read the checkpoint's index.

        Raises:
            ArtifactError: It is missing, damaged, or holds anything but an index.
            TrainingError: It has weights that this model has no place for.
        """
        self.path = directory
        self._tensors = StoredTensors(directory)
        self._prefix = self._find_prefix()
        self._where = {name: self._find(name) for name in decoder_sizes(shape)}
        self._require_all_used(shape)

    def size(self, name: str) -> tuple[int, ...] | None:
        """The size of a whole weight; None where the checkpoint has none of that name."""
        found = self._where.get(name)
        if found is None:
            return None
        stored, layer = found
        size = self._tensors.sizes[stored]
        return size if layer is None else size[1:]

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a weight."""
        found = self._where[name]
        assert found is not None
        stored, layer = found
        if layer is None:
            return self._tensors.read(stored, part)
        return self._tensors.read(stored, (slice(layer, layer + 1), *part))[0]

    def _find_prefix(self) -> str:
        """What is before every name."""
        for prefix in _PREFIXES:
            if any(name.startswith(f"{prefix}decoder.") for name in self._tensors.sizes):
                return prefix
        raise TrainingError(
            f"{self.path}: has no tensors named decoder.*, so it is not a GPT of megatron-core. Give such a checkpoint"
        )

    def _find(self, name: str) -> tuple[str, int | None] | None:
        """The stored tensor of a weight, and its layer's place in it where layers are stacked."""
        sizes = self._tensors.sizes
        in_layer = _LAYER.fullmatch(name)
        if in_layer is None:
            return (self._prefix + name, None) if self._prefix + name in sizes else None
        number, rest = int(in_layer[1]), in_layer[2]
        for inner in (rest, _FUSED.get(rest, rest)):
            own, stacked = (f"{self._prefix}decoder.layers.{layer}{inner}" for layer in (f"{number}.", ""))
            if own in sizes:
                return own, None
            if stacked in sizes and number < sizes[stacked][0]:
                return stacked, number
        return None

    def _require_all_used(self, shape: ModelShape) -> None:
        """A weight that finds no place (a bias, a norm of queries) would change what the model computes."""
        own = {self._prefix + part for part in _PARTS}
        model = {name for name in self._tensors.sizes if name.startswith(tuple(own)) and "_extra_state" not in name}
        extra = sorted(model - {found[0] for found in self._where.values() if found is not None})
        if extra:
            raise TrainingError(
                f"{self.path}: has {len(extra)} weights that this model has no place for, {extra[0]} the first. "
                "Give the model section its settings, or another model to start from"
            )
        stacks = {self._tensors.sizes[found[0]][0] for found in self._where.values() if found and found[1] is not None}
        if stacks - {shape.model.layers}:
            raise TrainingError(
                f"{self.path}: is another architecture: model.layers is {max(stacks)} there, "
                f"{shape.model.layers} here. Set model.layers, or give another model to start from"
            )
