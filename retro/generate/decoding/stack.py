"""The decoder layers of this pipeline stage, with the caches of the open sequences."""

# Dims in this file.
#   P packed tokens   H hidden size   B slots   T entries of neighbors, K R   E new chunks   K neighbors
#   R tokens of a neighbor   M tokens in a chunk

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from retro.generate.decoding.attention import (
    LayerParts,
    RopeTable,
    add_residual,
    cross_attention,
    self_attention,
)
from retro.generate.decoding.batch import Batch
from retro.generate.decoding.cache import EncoderStateBuffer, KeyValueCache, grown
from retro.generate.decoding.chunks import CrossAttentionPlan
from retro.generate.decoding.knowledge import KnowledgeCalls, knowledge_readers
from retro.generate.decoding.rows import Row, Rows, SlotCopy
from retro.generate.request import KnowledgeShape
from retro.mcore.cpu import device
from retro.model.attention import ChunkedCrossAttention
from retro.model.model import RetroModel
from retro.model.positions import positions_named


class CachedStack:
    """Layers, their caches, and the masks of the neighbors that rows attend to."""

    def __init__(self, model: RetroModel) -> None:
        shape, config = model.shape, model.config
        # Behind a closed gate nothing is computed.
        readers = knowledge_readers(model)
        self._layers = [
            LayerParts.of(layer, cross_attends=shape.model.gate != 0.0, knowledge=reader)
            for layer, reader in zip(model.decoder.layers, readers, strict=True)
        ]
        crosses = [layer.cross for layer in self._layers if layer.cross is not None]
        groups = shape.model.query_groups // config.tensor_model_parallel_size
        kept: dict[str, Any] = {"dtype": config.params_dtype, "device": device()}
        width, entries = shape.model.head_width, shape.model.neighbors * shape.retrieved_length
        own, most = len(self._layers), shape.model.sequence_length
        reading = sum(reader is not None for reader in readers)
        self.knowledge_shape = KnowledgeShape(reading, groups, width) if reading else None
        """What documents are read as; None where no layer reads any."""
        self._documents = KnowledgeCalls()
        self._keys_values = KeyValueCache(own, groups, width, most_tokens=most, **kept)
        self._cross = KeyValueCache(len(crosses), groups, width, most_tokens=entries, **kept)
        self._states = EncoderStateBuffer(shape.chunk_length, config.hidden_size, **kept)
        self._encodes = any(cross.encoder is not None for cross in crosses)
        self.mask_BT = torch.zeros(0, 0, dtype=torch.bool, device=device())
        """True where a token of a row's neighbors is real."""
        self._rope, self._cross_rope = _rope_tables(model, crosses)
        self._uses_rope = [shape.model.rotates(layer.layer_number) for layer in model.decoder.layers]

    def reserve(self, slots: int, tokens: int, entries: int) -> None:
        """Make room for `slots` sequences of `tokens` tokens with `entries` tokens of neighbors."""
        self._keys_values.reserve(slots, tokens)
        slots, entries = self._keys_values.slots, max(entries, self.mask_BT.size(1))
        if self.mask_BT.shape != (slots, entries):
            self._cross.reserve(slots, entries)
            self.mask_BT = grown(self.mask_BT, (slots, entries))
            if self._encodes:
                self._states.reserve(slots)

    def copy_slot(self, copy: SlotCopy) -> None:
        """Copy a sequence's caches to another slot."""
        if copy.source >= len(self.mask_BT):
            return
        self._keys_values.copy_slot(copy)
        self._cross.copy_slot(replace(copy, tokens=self.mask_BT.size(1)))
        if self._encodes:
            self._states.copy_slot(copy)
        self.mask_BT[copy.target] = self.mask_BT[copy.source]

    def share(self, rows: Rows, row: Row) -> None:
        """Have a row's own keys and values in a segment, and free what slots need no more."""
        row.share(self._keys_values.segment(row.slot, row.own))
        self._keys_values.shrink(rows.longest)

    @property
    def bytes(self) -> int:
        """Memory of all slots."""
        caches = (*self._keys_values.tensors, *self._cross.tensors, self._states.states_BMH, self.mask_BT)
        return sum(one.nbytes for one in caches) + self._documents.bytes

    def forward(
        self, hidden_P1H: Tensor, context: Tensor | None, batch: Batch, plan: CrossAttentionPlan
    ) -> tuple[Tensor, Tensor | None]:
        """Take new tokens through the layers.

        Args:
            hidden_P1H: Embedded, or as received from the stage before.
            context: [R, E K, H] neighbors of new chunks; embedded, or encoded where a stage before did it.
            batch: The new tokens.
            plan: Which token attends to which neighbors.

        Returns:
            The states after the last layer, and the neighbors: encoded, where this stage has the encoder.
        """
        angles = None if self._rope is None else self._rope.at(batch.position_P)
        cross_angles = None
        if plan.needed and self._cross_rope is not None:
            cross_angles = self._cross_rope.at(plan.position_P)
        documents, crossed = self._documents.plan(batch.knowledge), 0
        for number, layer in enumerate(self._layers):
            rope = angles if self._uses_rope[number] else None
            hidden_P1H = self_attention(layer, self._keys_values, number, hidden_P1H, batch, rope, documents)
            cross = layer.cross
            if cross is not None and (plan.needed or cross.encoder is not None):
                normed_P1H = layer.cross_norm(hidden_P1H)
                if cross.encoder is not None:
                    context = self._encode(cross.encoder, context, normed_P1H, batch, plan)
                if plan.needed:
                    added = cross_attention(cross, self._cross, crossed, normed_P1H, context, plan, cross_angles)
                    hidden_P1H, crossed = hidden_P1H + added, crossed + 1
            hidden_P1H = add_residual(hidden_P1H, layer.mlp(layer.mlp_norm(hidden_P1H)))
        self._store_mask(plan)
        return hidden_P1H, context

    def _encode(
        self, encoder: nn.Module, context: Tensor | None, normed_P1H: Tensor, batch: Batch, plan: CrossAttentionPlan
    ) -> Tensor | None:
        """Neighbors of new chunks, encoded, conditioned on the chunks; the new tokens' states go to the buffer."""
        new = plan.new
        if new is not None and context is not None:
            states_MEH = self._states.chunks(normed_P1H, new)
            context = encoder(context, states_MEH, new.mask_EKR[:, None], new.real_EM[:, None])
        self._states.store(normed_P1H, batch)
        return context

    def _store_mask(self, plan: CrossAttentionPlan) -> None:
        if plan.new is None:
            return
        mask_ET = plan.new.mask_EKR.flatten(1)
        for chunk, slot in zip(plan.new.stored, plan.new.stored_slots, strict=True):
            self.mask_BT[slot] = False
            self.mask_BT[slot, : mask_ET.size(1)] = mask_ET[chunk]


def _rope_tables(model: RetroModel, crosses: list[ChunkedCrossAttention]) -> tuple[RopeTable | None, RopeTable | None]:
    """RoPE of positions in the sequence, and of positions from the last token of a chunk on."""
    shape, dtype = model.shape, model.config.params_dtype
    own = read = None
    if positions_named(shape.model.positions).rotary:
        own = RopeTable(model.rotary_pos_emb(shape.model.sequence_length), dtype)
    rotaries = [cross.rotary for cross in crosses if cross.rotary is not None]
    if rotaries:
        read = RopeTable(rotaries[0](shape.chunk_length, offset=shape.chunk_length - 1), dtype)
    return own, read
