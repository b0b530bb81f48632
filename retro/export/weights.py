"""Weights as safetensors files, in the way that HuggingFace folders hold them: one file, or several with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from retro.model.config import ModelShape
from retro.model.convert.safe_files import ONE_FILE, write_safetensors

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
    return write_safetensors({name: weight.nbytes for name, weight in weights.items()}, weights.__getitem__, out, limit)
