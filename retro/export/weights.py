"""Weights as safetensors files, in the way that HuggingFace folders hold them: one file, or several with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from retro.common.artifacts import write_json
from retro.common.errors import ArtifactError
from retro.model.config import ModelShape

ONE_FILE = 5 * 10**9
"""Bytes that one file holds at most, unless a single weight is larger."""
_BY_VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")


def without_padding(shape: ModelShape, weights: Mapping[str, Tensor]) -> tuple[ModelShape, dict[str, Tensor]]:
    """Drop the rows of the vocabulary that only pad it.

    They have no token and were never trained towards one; a folder that kept them could generate them.
    """
    model = shape.model.model_copy(update={"vocabulary_multiple": 1})
    trimmed = {
        name: weight[: shape.vocabulary] if name in _BY_VOCABULARY else weight for name, weight in weights.items()
    }
    return shape.model_copy(update={"model": model}), trimmed


def in_precision(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights on the CPU, each in one piece; a weight that is so already is not copied."""
    return {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}


def write_weights(weights: Mapping[str, Tensor], out: Path, limit: int = ONE_FILE) -> list[Path]:
    """Write `model.safetensors`, or several files of at most `limit` bytes and the index that names each weight's.

    Raises:
        ArtifactError: A file cannot be written.
    """
    groups = _groups(weights, limit)
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
        where = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        total = sum(weight.nbytes for weight in weights.values())
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    for file, group in zip(names, groups, strict=True):
        try:
            save_file({name: weights[name] for name in group}, out / file, metadata={"format": "pt"})
        except SafetensorError as error:
            problem = f"cannot be written ({error})"
            raise ArtifactError(out / file, problem, "Free some space, or choose another folder") from None
    return [out / file for file in names]


def _groups(weights: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Names in order, a new group wherever the next weight would go over `limit`."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        if groups[-1] and size + weight.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += weight.nbytes
    return groups
