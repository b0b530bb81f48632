"""A layer of the decoder over what its sequences have left in its caches.

The parts of the layer are those that it was trained with, called one by one: norms, projections and the feed-forward
layer see packed tokens as a sequence of its own; only attention is told apart, row by row.
"""

# Dims in this file.
#   P packed tokens   H hidden size   N heads and G query groups on this rank   J heads of a group   D head width
#   B slots of a run   T cache entries   E new chunks   K neighbors   R tokens of a neighbor
#   W tokens that read a new chunk's neighbors   X heads on this rank side by side, N D

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retro.generate.decoding.cache import KeyValueCache
from retro.generate.decoding.chunks import NewChunks, Reading
from retro.generate.decoding.rotation import Turn, rotate
from retro.generate.decoding.step import Run, Step, Stretch
from retro.mcore.layers import fused_attention
from retro.model.attention import ChunkedCrossAttention


@dataclass(frozen=True)
class LayerParts:
    """The parts of a decoder layer, at hand without a look-up in its modules for every token."""

    input_norm: Any
    query_key_value: Any
    query_norm: Any
    """None where queries are not normed; keys likewise."""
    key_norm: Any
    output: Any
    cross_norm: Any
    cross: ChunkedCrossAttention | None
    """None where nothing is read."""
    mlp_norm: Any
    mlp: Any

    @classmethod
    def of(cls, layer: Any, *, reads: bool) -> LayerParts:
        """The parts of megatron-core's layer."""
        attention, cross = layer.self_attention, layer.cross_attention
        return cls(
            input_norm=layer.input_layernorm,
            query_key_value=attention.linear_qkv,
            query_norm=attention.q_layernorm if attention.config.qk_layernorm else None,
            key_norm=attention.k_layernorm if attention.config.qk_layernorm else None,
            output=attention.linear_proj,
            cross_norm=layer.pre_cross_attn_layernorm,
            cross=cross if reads and isinstance(cross, ChunkedCrossAttention) else None,
            mlp_norm=layer.pre_mlp_layernorm,
            mlp=layer.mlp,
        )


def add_residual(residual: Tensor, result: tuple[Tensor, Tensor | None]) -> Tensor:
    """The residual stream after a part of a layer that gives its output and, apart, its bias."""
    output, bias = result
    return residual + (output if bias is None else output + bias)


def read_self(
    layer: LayerParts, cache: KeyValueCache, number: int, hidden_P1H: Tensor, step: Step, turn: Turn | None
) -> Tensor:
    """The residual stream after self-attention; new keys and values stay in the cache."""
    # The heads of a group, then its key and value; queries and keys turn in one.
    mixed, _ = layer.query_key_value(layer.input_norm(hidden_P1H))
    keys, values = cache.keys[number], cache.values[number]
    groups = keys.size(1)
    heads = mixed[:, 0].unflatten(-1, (groups, -1, keys.size(3)))
    queries_and_keys = heads[:, :, :-1]
    if layer.query_norm is not None:
        query, key = layer.query_norm(heads[:, :, :-2]), layer.key_norm(heads[:, :, -2:-1])
        queries_and_keys = torch.cat((query, key), dim=2)
    turned = rotate(queries_and_keys.flatten(1, 2), turn).unflatten(1, (groups, -1))
    for kept, new in ((keys, turned[:, :, -1]), (values, heads[:, :, -1])):
        _store(kept, new, step)
    attended = _read(turned[:, :, :-1], keys, values, step.runs, step.stretches)
    return add_residual(hidden_P1H, layer.output(attended))


def _store(kept_BGTD: Tensor, new_PGD: Tensor, step: Step) -> None:
    if len(step.runs) == 1 and step.runs[0].mask_B11T is None:
        run = step.runs[0]
        kept_BGTD[run.slot : run.slot + run.count, :, run.keys - 1] = new_PGD[: run.count]
    elif step.singles:
        slots, positions = step.slot_P[: step.singles], step.position_P[: step.singles]
        kept_BGTD[slots, :, positions] = new_PGD[: step.singles].to(kept_BGTD.dtype)
    for span in step.spans[step.singles :]:
        new = new_PGD[span.offset : span.offset + span.count]
        kept_BGTD[span.row.slot, :, span.start : span.start + span.count] = new.transpose(0, 1)


def _read(
    query_PGJD: Tensor, keys: Tensor, values: Tensor, runs: tuple[Run, ...], stretches: tuple[Stretch, ...]
) -> Tensor:
    """[P, 1, X] what tokens find in the caches; zero for those in no run and no stretch."""
    if len(runs) == 1 and runs[0].count == len(query_PGJD):
        return _read_run(query_PGJD, keys, values, runs[0])[:, None]
    attended = query_PGJD.new_zeros(len(query_PGJD), 1, query_PGJD[0].numel())
    for run in runs:
        own = slice(run.offset, run.offset + run.count)
        attended[own, 0] = _read_run(query_PGJD[own], keys, values, run)
    for stretch in stretches:
        own = slice(stretch.offset, stretch.offset + stretch.count)
        query = query_PGJD[own].flatten(1, 2)[:, None]
        key, value = (x[stretch.slot, :, : stretch.keys].transpose(0, 1)[:, None] for x in (keys, values))
        attended[own] = fused_attention(query, key, value, stretch.mask, causal=stretch.causal)
    return attended


def _read_run(query_BGJD: Tensor, keys: Tensor, values: Tensor, run: Run) -> Tensor:
    """[B, X]. The heads of a query group stand where tokens would: one token each, they read the same keys."""
    key, value = (x[run.slot : run.slot + run.count, :, : run.keys].permute(2, 0, 1, 3) for x in (keys, values))
    attended = fused_attention(query_BGJD.permute(2, 0, 1, 3), key, value, run.mask_B11T, causal=False)
    if len(attended) == 1:
        return attended[0]
    return attended.unflatten(-1, (key.size(2), -1)).permute(1, 2, 0, 3).flatten(1)


def read_neighbors(
    cross: ChunkedCrossAttention,
    cache: KeyValueCache,
    number: int,
    normed_P1H: Tensor,
    encoded: Tensor | None,
    reading: Reading,
    turn: Turn | None,
) -> Tensor:
    """What cross-attention adds to the residual stream.

    Args:
        cross: The layer's.
        cache: Keys and values of what rows read now.
        number: The layer's place in the cache.
        normed_P1H: Normed states.
        encoded: [R, E K, H] encoded neighbors of new chunks.
        reading: Who reads what.
        turn: The tokens' positions in the frames of their chunks.
    """
    query_PND = rotate(cross.query(normed_P1H)[:, 0], turn)
    keys, values = cache.keys[number], cache.values[number]
    attended = _read(query_PND.unflatten(1, (keys.size(1), -1)), keys, values, reading.runs, reading.stretches)
    if reading.new is not None and encoded is not None:
        key, value = cross.keys_and_values(encoded, reading.new.mask_EKR)
        _read_new(attended, query_PND, key, value, reading.new)
        for kept, new in ((keys, key), (values, value)):
            _keep_new(kept, new, reading.new)
    return cross.project(attended, reading.sees_P11)


def _read_new(attended_P1X: Tensor, query_PND: Tensor, key: Tensor, value: Tensor, new: NewChunks) -> None:
    """Fill in what the first tokens to see new neighbors find in them."""
    mask = new.mask_EKR.flatten(1)[:, None, None]
    found_WEX = fused_attention(query_PND[new.reader_WE], key, value, mask, causal=False)
    attended_P1X[new.reader_WE[new.reads_WE], 0] = found_WEX[new.reads_WE]


def _keep_new(kept_BGTD: Tensor, new_TEGD: Tensor, new: NewChunks) -> None:
    for chunk, slot in zip(new.kept, new.kept_slots, strict=True):
        kept_BGTD[slot, :, : new_TEGD.size(0)] = new_TEGD[:, chunk].transpose(0, 1)
