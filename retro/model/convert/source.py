"""Weights that a model starts from, wherever they come from, and filling a model's own shards with them.

A source answers under our names. Each rank reads only the rows and columns it holds, so no rank ever has the whole
model in memory, however the source is cut into files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from retro.common.errors import TrainingError
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import fill
from retro.model.config import ModelShape
from retro.model.weight_names import (
    POSITIONS,
    decoder_sizes,
    is_added_module,
    is_retrieval,
    is_vocabulary,
    weight_sizes,
)

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class AddedTokens:
    """What a model with more tokens starts from."""

    shape: ModelShape
    """The model that it starts from, with its tokens and its tokenizer."""
    known: int
    """Tokens of that tokenizer; rows from there on become the mean of those before."""


class Readable(Protocol):
    """Weights that are read in parts."""

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a weight, one slice an axis, within its size."""


class StoredParts(Readable, Protocol):
    """Weights on disk, by name."""

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """The whole size of each."""


class WeightSource(Protocol):
    """The weights of a decoder, or of a whole Retro, under our names."""

    path: Path

    def size(self, name: str) -> tuple[int, ...] | None:
        """The size of a whole weight; None where the source has none of that name."""

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a weight, one slice an axis, within its size."""


def smaller(shape: ModelShape, added: AddedTokens) -> ModelShape:
    """A model with the tokens and the tokenizer of what it starts from."""
    return shape.model_copy(update={"vocabulary": added.shape.vocabulary, "tokenizer": added.shape.tokenizer})


def require_fits(source: WeightSource, shape: ModelShape) -> None:
    """Check that a source has every weight of a model's decoder, in its size. Nothing is read.

    The embedding may have other rows for padding, and the table of positions more than are needed.

    Raises:
        TrainingError: The first weights that do not fit are named with both sizes.
    """
    wrong = []
    for name, here in decoder_sizes(shape).items():
        there = source.size(name)
        if there is None:
            wrong.append(f"{name} is missing")
        elif there[1:] != here[1:] or not _rows_fit(name, there[0], here[0], shape):
            wrong.append(f"{name} is {list(there)} there, {list(here)} here")
    if wrong:
        raise TrainingError(
            f"{source.path}: is another architecture: {'; '.join(wrong[:4])}. "
            "Give the model section its settings, or another model to start from"
        )


def _rows_fit(name: str, there: int, here: int, shape: ModelShape) -> bool:
    if is_vocabulary(name):
        return there >= shape.vocabulary
    return there >= here if name == POSITIONS else there == here


def fill_from(state: dict[str, Any], source: WeightSource, shape: ModelShape) -> dict[str, Any]:
    """Copy a source's weights into the shards of this rank, in place.

    New adapters and added modules keep their fresh weights, and retrieval does that the source lacks.

    Rows that only pad the vocabulary become the mean of all tokens' rows. Zero rows would have a logit of 0, which
    wins where all real logits are far below, as GPT-2's do; a mean row's share of the probability is at most one
    token's share of the vocabulary (Jensen's inequality).

    Args:
        state: This rank's sharded weights, as `Engine.weights` gives them.
        source: Checked by `require_fits`.
        shape: The model.

    Returns:
        The weights for `Engine.load_weights`.
    """
    fresh: list[str] = []

    def read(name: str, part: tuple[slice, ...]) -> Tensor | None:
        if source.size(name) is None and (is_adapter(name) or is_added_module(name) or is_retrieval(name)):
            if is_retrieval(name):
                fresh.append(name)
            return None
        return read_weight(source, name, part, shape.vocabulary)

    filled = fill(state, read)
    if fresh:
        log.info(
            "%d tensors of retrieval are not in %s and are initialized at random, the first is %s",
            len(fresh),
            source.path,
            fresh[0],
        )
    return filled


class GrownWeights:
    """Stored weights of a model, in the sizes of one with more tokens."""

    def __init__(self, stored: StoredParts, shape: ModelShape, known: int) -> None:
        """Wrap them.

        Args:
            stored: The weights of the smaller model.
            shape: The larger model.
            known: Tokens that the smaller one knows.
        """
        self._stored, self._known = stored, known
        ours = weight_sizes(shape)
        self.sizes = {name: ours[name] if is_vocabulary(name) else size for name, size in stored.sizes.items()}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of one, a slice an axis."""
        return read_weight(self._stored, name, part, self._known)


def read_weight(source: Readable, name: str, part: tuple[slice, ...], vocabulary: int) -> Tensor:
    """A part of a weight; rows below the last token of embedding and output layer are the mean of all tokens' rows."""
    if is_vocabulary(name):
        return _read_vocabulary(source, name, part, vocabulary)
    return source.read(name, part)


def _read_vocabulary(source: Readable, name: str, part: tuple[slice, ...], vocabulary: int) -> Tensor:
    """A part of the embedding or the output layer, padded below the last token."""
    rows, columns = part
    stop = max(rows.start, min(rows.stop, vocabulary))
    pieces = []
    if stop > rows.start:
        pieces.append(source.read(name, (slice(rows.start, stop), columns)))
    if rows.stop > stop:
        pieces.append(_mean_row(source, name, columns, vocabulary).expand(rows.stop - stop, -1))
    return torch.cat([piece.float() for piece in pieces])


def _mean_row(source: Readable, name: str, columns: slice, vocabulary: int) -> Tensor:
    """[1, columns] mean of all tokens' rows, read in blocks."""
    total = torch.zeros(1, columns.stop - columns.start)
    for start in range(0, vocabulary, _ROWS_AT_ONCE):
        block = source.read(name, (slice(start, min(start + _ROWS_AT_ONCE, vocabulary)), columns))
        total += block.float().sum(dim=0, keepdim=True)
    return total / vocabulary
