"""Self-attention and cross-attention of a decoder layer over the caches of its sequences.

The modules of the layer are those that it was trained with, called one by one: norms, projections and the feed-forward
layer see the packed tokens as one sequence; only attention differs from row to row.
"""

# Dims in this file.
#   P packed tokens   H hidden size   N heads and G query groups on this rank   J heads of a group   D head width
#   B slots of a decode group   T cache entries   E new chunks   K neighbors   R tokens of a neighbor
#   W tokens that attend to a new chunk's neighbors   X heads on this rank side by side, N D
#   F the rotated part of D

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retro.generate.decoding.batch import Batch, DecodeGroup, Prefill
from retro.generate.decoding.cache import KeyValueCache
from retro.generate.decoding.chunks import CrossAttentionPlan, NewChunks
from retro.generate.decoding.knowledge import KnowledgeCall, KnowledgeReader
from retro.mcore.layers import fused_attention
from retro.model.attention import ChunkedCrossAttention


@dataclass(frozen=True)
class LayerParts:
    """The modules of a decoder layer, resolved once instead of for every token."""

    input_norm: Any
    query_key_value: Any
    query_norm: Any
    """None where queries are not normed; keys likewise."""
    key_norm: Any
    output: Any
    cross_norm: Any
    cross: ChunkedCrossAttention | None
    """None in layers without cross-attention, and where its gate is closed."""
    mlp_norm: Any
    mlp: Any
    knowledge: KnowledgeReader | None = None
    """None in layers that read no documents."""

    @classmethod
    def of(cls, layer: Any, *, cross_attends: bool, knowledge: KnowledgeReader | None = None) -> LayerParts:
        """The modules of megatron-core's layer."""
        attention, cross = layer.self_attention, layer.cross_attention
        return cls(
            input_norm=layer.input_layernorm,
            query_key_value=attention.linear_qkv,
            query_norm=attention.q_layernorm if attention.config.qk_layernorm else None,
            key_norm=attention.k_layernorm if attention.config.qk_layernorm else None,
            output=attention.linear_proj,
            cross_norm=layer.pre_cross_attn_layernorm,
            cross=cross if cross_attends and isinstance(cross, ChunkedCrossAttention) else None,
            mlp_norm=layer.pre_mlp_layernorm,
            mlp=layer.mlp,
            knowledge=knowledge,
        )


def add_residual(residual: Tensor, result: tuple[Tensor, Tensor | None]) -> Tensor:
    """The residual stream after a module that returns its output and its bias separately."""
    output, bias = result
    return residual + (output if bias is None else output + bias)


def self_attention(
    layer: LayerParts,
    cache: KeyValueCache,
    number: int,
    hidden_P1H: Tensor,
    batch: Batch,
    angles: RopeAngles | None,
    documents: Sequence[KnowledgeCall] = (),
) -> Tensor:
    """The residual stream after self-attention, to past tokens and to documents; new keys and values are stored."""
    # The heads of a group, then its key and value; queries and keys are rotated together.
    mixed, _ = layer.query_key_value(layer.input_norm(hidden_P1H))
    keys, values = cache.keys[number], cache.values[number]
    groups = keys.size(1)
    heads = mixed[:, 0].unflatten(-1, (groups, -1, keys.size(3)))
    queries_and_keys = heads[:, :, :-1]
    if layer.query_norm is not None:
        query, key = layer.query_norm(heads[:, :, :-2]), layer.key_norm(heads[:, :, -2:-1])
        queries_and_keys = torch.cat((query, key), dim=2)
    rotated = apply_rope(queries_and_keys.flatten(1, 2), angles).unflatten(1, (groups, -1))
    for kept, new in ((keys, rotated[:, :, -1]), (values, heads[:, :, -1])):
        _store(kept, new, batch)
    attended = _attend(rotated[:, :, :-1], keys, values, batch.decodes, batch.prefills, number)
    if layer.knowledge is not None and documents:
        layer.knowledge.add(attended, queries_and_keys[:, :, :-1].flatten(1, 2), documents)
    return add_residual(hidden_P1H, layer.output(attended))


def _store(kept_BGTD: Tensor, new_PGD: Tensor, batch: Batch) -> None:
    if len(batch.decodes) == 1 and batch.decodes[0].mask_B11T is None:
        decode = batch.decodes[0]
        kept_BGTD[decode.slot : decode.slot + decode.count, :, decode.keys - 1] = new_PGD[: decode.count]
    elif batch.singles:
        slots, entries = batch.slot_P[: batch.singles], batch.entry_P[: batch.singles]
        kept_BGTD[slots, :, entries] = new_PGD[: batch.singles].to(kept_BGTD.dtype)
    for span in batch.spans[batch.singles :]:
        new = new_PGD[span.offset : span.offset + span.count]
        kept_BGTD[span.row.slot, :, span.first_entry : span.entries] = new.transpose(0, 1)


def _attend(
    query_PGJD: Tensor,
    keys: Tensor,
    values: Tensor,
    decodes: tuple[DecodeGroup, ...],
    prefills: tuple[Prefill, ...],
    layer: int = 0,
) -> Tensor:
    """[P, 1, X] attention output; zero for tokens in no decode group and no prefill.

    Args:
        query_PGJD: Of all tokens.
        keys: [B, G, T, D] the layer's cache.
        values: Likewise.
        decodes: Rows with one token.
        prefills: Rows with several.
        layer: The layer's place in segments.
    """
    if len(decodes) == 1 and decodes[0].count == len(query_PGJD):
        return _attend_decode(query_PGJD, keys, values, decodes[0], layer)[:, None]
    attended = query_PGJD.new_zeros(len(query_PGJD), 1, query_PGJD[0].numel())
    for decode in decodes:
        own = slice(decode.offset, decode.offset + decode.count)
        attended[own, 0] = _attend_decode(query_PGJD[own], keys, values, decode, layer)
    for prefill in prefills:
        own = slice(prefill.offset, prefill.offset + prefill.count)
        query = query_PGJD[own].flatten(1, 2)[:, None]
        key, value = (x[prefill.slot, :, : prefill.keys] for x in (keys, values))
        if prefill.segments:
            key = torch.cat([*(one.keys[layer] for one in prefill.segments), key], dim=1)
            value = torch.cat([*(one.values[layer] for one in prefill.segments), value], dim=1)
        key, value = (x.transpose(0, 1)[:, None] for x in (key, value))
        attended[own] = fused_attention(query, key, value, prefill.mask, causal=prefill.causal)
    return attended


def _attend_decode(query_BGJD: Tensor, keys: Tensor, values: Tensor, decode: DecodeGroup, layer: int) -> Tensor:
    """[B, X]. The heads of a query group take the place of tokens: one token each, they attend to the same keys."""
    key, value = (x[decode.slot : decode.slot + decode.count, :, : decode.keys] for x in (keys, values))
    if decode.segments:
        return _attend_shared(query_BGJD, key, value, decode, layer)
    key, value = (x.permute(2, 0, 1, 3) for x in (key, value))
    attended = fused_attention(query_BGJD.permute(2, 0, 1, 3), key, value, decode.mask_B11T, causal=False)
    if len(attended) == 1:
        return attended[0]
    return attended.unflatten(-1, (key.size(2), -1)).permute(1, 2, 0, 3).flatten(1)


def _attend_shared(query_BGJD: Tensor, key: Tensor, value: Tensor, decode: DecodeGroup, layer: int) -> Tensor:
    """[B, X]. Rows that share segments attend to these together, so that their keys are read once for all rows.

    Args:
        query_BGJD: Of rows with one token.
        key: [B, G, T, D] their own.
        value: Likewise.
        decode: What they share, and which of their own entries they have.
        layer: The layer's place in segments.
    """
    query_GBJD = query_BGJD.transpose(0, 1).to(key.dtype) * query_BGJD.size(-1) ** -0.5
    together = query_GBJD.flatten(1, 2)
    shared = [(one.keys[layer], one.values[layer]) for one in decode.segments]
    own_GBJT = query_GBJD @ key.permute(1, 0, 3, 2)
    if decode.mask_B11T is not None:
        own_GBJT = own_GBJT.masked_fill(~decode.mask_B11T.transpose(0, 1), float("-inf"))
    scores = [(together @ one.mT).unflatten(1, own_GBJT.shape[1:3]) for one, _ in shared]
    weights = torch.cat([*scores, own_GBJT], dim=-1).softmax(dim=-1, dtype=torch.float32).to(key.dtype)
    *parts, own = weights.split([*(one.length for one in decode.segments), key.size(2)], dim=-1)
    output_GBJD = own @ value.transpose(0, 1)
    for part, (_, shared_value) in zip(parts, shared, strict=True):
        output_GBJD += (part.flatten(1, 2) @ shared_value).unflatten(1, own.shape[1:3])
    return output_GBJD.transpose(0, 1).flatten(1).to(query_BGJD.dtype)


def cross_attention(
    cross: ChunkedCrossAttention,
    cache: KeyValueCache,
    number: int,
    normed_P1H: Tensor,
    encoded: Tensor | None,
    plan: CrossAttentionPlan,
    angles: RopeAngles | None,
) -> Tensor:
    """What cross-attention adds to the residual stream.

    Args:
        cross: The layer's.
        cache: Keys and values of the neighbors that rows attend to.
        number: The layer's place in the cache.
        normed_P1H: Normed states.
        encoded: [R, E K, H] encoded neighbors of new chunks.
        plan: Which token attends to which neighbors.
        angles: RoPE of the tokens' positions relative to their chunks.
    """
    query_PND = apply_rope(cross.query(normed_P1H)[:, 0], angles)
    keys, values = cache.keys[number], cache.values[number]
    attended = _attend(query_PND.unflatten(1, (keys.size(1), -1)), keys, values, plan.decodes, plan.prefills)
    if plan.new is not None and encoded is not None:
        key, value = cross.keys_and_values(encoded, plan.new.mask_EKR)
        _attend_new(attended, query_PND, key, value, plan.new)
        for kept, new in ((keys, key), (values, value)):
            _store_new(kept, new, plan.new)
    return cross.project(attended, plan.has_neighbors_P11)


def _attend_new(attended_P1X: Tensor, query_PND: Tensor, key: Tensor, value: Tensor, new: NewChunks) -> None:
    """Fill in the attention output of tokens that attend to new neighbors."""
    mask = new.mask_EKR.flatten(1)[:, None, None]
    output_WEX = fused_attention(query_PND[new.reader_WE], key, value, mask, causal=False)
    attended_P1X[new.reader_WE[new.reads_WE], 0] = output_WEX[new.reads_WE]


def _store_new(kept_BGTD: Tensor, new_TEGD: Tensor, new: NewChunks) -> None:
    for chunk, slot in zip(new.stored, new.stored_slots, strict=True):
        kept_BGTD[slot, :, : new_TEGD.size(0)] = new_TEGD[:, chunk].transpose(0, 1)


@dataclass(frozen=True)
class RopeAngles:
    """Rotary position embedding of some tokens."""

    cos_P1F: Tensor
    sin_P1F: Tensor
    """Negated for the first of each pair."""


class RopeTable:
    """Cosines and sines by position, computed once."""

    def __init__(self, angles_T11F: Tensor, dtype: torch.dtype) -> None:
        """Compute the tables.

        Args:
            angles_T11F: As megatron-core's RotaryEmbedding gives them, for the first of each pair, then the second.
            dtype: Of queries and keys.
        """
        angles_T1F = angles_T11F[:, 0]
        sign_F = torch.ones_like(angles_T1F[0, 0])
        sign_F[: len(sign_F) // 2] = -1
        self.cos_T1F, self.sin_T1F = angles_T1F.cos().to(dtype), (angles_T1F.sin() * sign_F).to(dtype)

    def at(self, position_P: Tensor) -> RopeAngles:
        """The angles of tokens at these positions of the table."""
        return RopeAngles(self.cos_T1F[position_P], self.sin_T1F[position_P])


def apply_rope(x_PND: Tensor, angles: RopeAngles | None) -> Tensor:
    """Rotate the pairs (i, i + F / 2) of each head (Su et al. 2021); None rotates nothing.

    Args:
        x_PND: [P, heads, D].
        angles: Of the tokens.
    """
    if angles is None:
        return x_PND
    width = angles.cos_P1F.size(-1)
    if width < x_PND.size(-1):
        return torch.cat((apply_rope(x_PND[..., :width], angles), x_PND[..., width:]), dim=-1)
    other_of_pair = x_PND.roll(width // 2, -1)
    return torch.addcmul(x_PND * angles.cos_P1F, other_of_pair, angles.sin_P1F)
