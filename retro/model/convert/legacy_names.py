"""Where each weight of a legacy Megatron checkpoint belongs, and how its tensor parallel ranks share it.

Names on their side are those of Megatron-LM's `language_model` before megatron-core, as the InstructRetro tag (January
2024) saves them, with `layernorm` in place of `norm` in older ones. Two things are not a matter of names:

* A layer that reads neighbors uses its `post_attention_norm` in front of cross-attention, and has a norm of its own,
  `post_inter_attention_norm`, in front of the feed-forward layer. So what is the feed-forward norm in every other layer
  is the cross-attention norm there.
* Gate and up projection are one after the other within each rank, so joining the ranks needs a change of order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from retro.common.plain_pickle import PickleError
from retro.model.weight_names import EMBEDDING, FINAL_NORM, OUTPUT, POSITIONS


class Partition(Enum):
    """What a tensor parallel rank holds of a tensor."""

    WHOLE = "the whole"
    ROWS = "rows"
    COLUMNS = "columns"
    GATE_AND_UP = "rows of the gate, then rows of the up projection"


@dataclass(frozen=True)
class Destination:
    """Where a legacy tensor goes."""

    name: str
    """Our name of it."""
    share: Partition
    """What one rank holds."""


_OUTSIDE = {
    "embedding.word_embeddings.weight": Destination(EMBEDDING, Partition.ROWS),
    "embedding.position_embeddings.weight": Destination(POSITIONS, Partition.WHOLE),
    "output_layer.weight": Destination(OUTPUT, Partition.ROWS),
    "encoder.final_norm.weight": Destination(f"{FINAL_NORM}.weight", Partition.WHOLE),
    "encoder.final_norm.bias": Destination(f"{FINAL_NORM}.bias", Partition.WHOLE),
}
_PARTS = {
    "input_norm": ("input_layernorm", Partition.WHOLE),
    "self_attention.query_key_value": ("self_attention.linear_qkv", Partition.ROWS),
    "self_attention.dense": ("self_attention.linear_proj", Partition.COLUMNS),
    "inter_attention.query": ("cross_attention.linear_q", Partition.ROWS),
    "inter_attention.key_value": ("cross_attention.linear_kv", Partition.ROWS),
    "inter_attention.dense": ("cross_attention.linear_proj", Partition.COLUMNS),
    "post_inter_attention_norm": ("pre_mlp_layernorm", Partition.WHOLE),
    "mlp.dense_h_to_4h": ("mlp.linear_fc1", Partition.ROWS),
    "mlp.dense_4h_to_h": ("mlp.linear_fc2", Partition.COLUMNS),
}
_MOST_ENTRIES, _LONGEST_NAME = 1_000_000, 1_000
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(?:retriever\.layers\.(\d+)\.)?(.+)\.(weight|bias)")


def places(keys: Iterable[str], *, gated: bool) -> dict[str, Destination | None]:
    """The place of each key, None where a key is not known.

    Args:
        keys: Keys below `language_model` of one rank, all of them: what a layer's norm is for depends on the others.
        gated: Whether the feed-forward layers have a gate.
    """
    plain = {key: key.replace("layernorm", "norm") for key in keys}
    reading = {_layer(key) for key in plain.values() if ".inter_attention." in key}
    return {key: _place(name, reading, gated) for key, name in plain.items()}


def reading_layers(keys: Iterable[str]) -> list[int]:
    """The decoder layers that read neighbors, counted from 1."""
    reading = {_layer(key) for key in keys if ".inter_attention." in key}
    return sorted(1 + number for number, of_encoder in reading if of_encoder is None)


def encoder_layers(keys: Iterable[str]) -> int:
    """Layers of the neighbor encoder."""
    return len({of_encoder for _, of_encoder in map(_layer, keys) if of_encoder is not None})


def _layer(key: str) -> tuple[int, int | None]:
    """A key's decoder layer and encoder layer, from 0; (-1, None) outside of layers."""
    found = _LAYER.fullmatch(key)
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] is None else int(found[2])


def _place(key: str, reading: set[tuple[int, int | None]], gated: bool) -> Destination | None:
    found = _LAYER.fullmatch(key)
    if found is None:
        return _OUTSIDE.get(key)
    number, of_encoder, part, kind = found.groups()
    if part == "post_attention_norm":
        name, share = ("pre_cross_attn_layernorm" if _layer(key) in reading else "pre_mlp_layernorm"), Partition.WHOLE
    elif part in _PARTS:
        name, share = _PARTS[part]
    else:
        return None
    inside = "" if of_encoder is None else f"cross_attention.encoder.layers.{of_encoder}."
    if share is Partition.COLUMNS and kind == "bias":
        share = Partition.WHOLE  # added once, after the ranks' parts are summed
    if gated and part == "mlp.dense_h_to_4h":
        share = Partition.GATE_AND_UP
    return Destination(f"decoder.layers.{number}.{inside}{name}.{kind}", share)


def whole_size(parts: Sequence[Tensor], share: Partition) -> tuple[int, ...]:
    """Size of the tensor that the ranks share."""
    size = list(parts[0].shape)
    if share is not Partition.WHOLE:
        size[_axis(share)] *= len(parts)
    return tuple(size)


def read_shared(parts: Sequence[Tensor], share: Partition, wanted: tuple[slice, ...]) -> Tensor:
    """A part of the tensor that the ranks share; only what it takes of each rank's is read.

    Args:
        parts: What each rank holds.
        share: Of which kind.
        wanted: One slice an axis, with start and stop.
    """
    pieces: Sequence[Tensor] = parts[:1] if share is Partition.WHOLE else parts
    if share is Partition.GATE_AND_UP:
        halves = [part.chunk(2) for part in parts]
        pieces = [gate for gate, _ in halves] + [up for _, up in halves]
    axis, first, found = _axis(share), 0, []
    for piece in pieces:
        start, stop = max(wanted[axis].start, first), min(wanted[axis].stop, first + piece.size(axis))
        if start < stop:
            own = slice(start - first, stop - first)
            found.append(piece[(*wanted[:axis], own, *wanted[axis + 1 :])])
        first += piece.size(axis)
    return torch.cat(found, dim=axis) if len(found) > 1 else found[0]


def _axis(share: Partition) -> int:
    return 1 if share is Partition.COLUMNS else 0


def flat(nested: Mapping[Any, object]) -> dict[str, object]:
    """Nested dictionaries as one, keys joined by dots; what Transformer Engine keeps beside weights is left out.

    Raises:
        PickleError: They are nested deeper than any model, or have more entries.
    """
    found: dict[str, object] = {}
    left = [("", key, value) for key, value in nested.items()]
    for _ in range(_MOST_ENTRIES):
        if not left:
            return found
        prefix, key, value = left.pop()
        name = f"{prefix}{key}"
        if len(name) > _LONGEST_NAME:
            break
        if isinstance(value, Mapping):
            left += [(f"{name}.", inner, content) for inner, content in value.items()]
        elif not name.endswith("_extra_state"):
            found[name] = value
    raise PickleError("its model has more entries, or longer names, than any model has")
