"""The decoder layers that this rank holds, with all that they keep of the sequences in work."""

# Dims in this file.
#   P packed tokens   H hidden size   B slots   T entries of neighbors, K R   E new chunks   K neighbors
#   R tokens of a neighbor   M tokens in a chunk

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retro.generate.decoding.cache import KeyValueCache, grown
from retro.generate.decoding.chunks import Reading
from retro.generate.decoding.layers import LayerParts, add_residual, read_neighbors, read_self
from retro.generate.decoding.ring import StateRing
from retro.generate.decoding.rotation import Rotation
from retro.generate.decoding.rows import Move
from retro.generate.decoding.step import Step
from retro.mcore.cpu import device
from retro.model.attention import ChunkedCrossAttention
from retro.model.model import RetroModel


class CachedStack:
    """Layers, their caches, and the masks of the neighbors that rows read."""

    def __init__(self, model: RetroModel) -> None:
        shape, config = model.shape, model.config
        # A gate that is shut lets nothing through, so nothing behind it is computed.
        self._layers = [LayerParts.of(layer, reads=shape.model.gate != 0.0) for layer in model.decoder.layers]
        crosses = [layer.cross for layer in self._layers if layer.cross is not None]
        groups = shape.model.query_groups // config.tensor_model_parallel_size
        kept: dict[str, Any] = {"dtype": config.params_dtype, "device": device()}
        width, entries = shape.model.head_width, shape.model.neighbors * shape.retrieved_length
        own, most = len(self._layers), shape.model.sequence_length
        self._own = KeyValueCache(own, groups, width, most_tokens=most, **kept)
        self._read = KeyValueCache(len(crosses), groups, width, most_tokens=entries, **kept)
        self._ring = StateRing(shape.chunk_length, config.hidden_size, **kept)
        self._encodes = any(cross.encoder is not None for cross in crosses)
        self.mask_BT = torch.zeros(0, 0, dtype=torch.bool, device=device())
        """True where a token of the neighbors that a row reads is real."""
        self._rotation, self._cross_rotation = _rotations(model, crosses)
        self._rotates = [shape.model.rotates(layer.layer_number) for layer in model.decoder.layers]

    def reserve(self, slots: int, tokens: int, entries: int) -> None:
        """Have room for so many sequences of so many tokens that read so many entries of neighbors."""
        self._own.reserve(slots, tokens)
        slots, entries = self._own.slots, max(entries, self.mask_BT.size(1))
        if self.mask_BT.shape != (slots, entries):
            self._read.reserve(slots, entries)
            self.mask_BT = grown(self.mask_BT, (slots, entries))
            if self._encodes:
                self._ring.reserve(slots)

    def move(self, move: Move) -> None:
        """Have a sequence's caches in another slot."""
        if move.source >= len(self.mask_BT):
            return
        self._own.move(move)
        self._read.move(move)
        if self._encodes:
            self._ring.move(move)
        self.mask_BT[move.target] = self.mask_BT[move.source]

    def forward(
        self, hidden_P1H: Tensor, context: Tensor | None, step: Step, reading: Reading
    ) -> tuple[Tensor, Tensor | None]:
        """Take new tokens through the layers.

        Args:
            hidden_P1H: Embedded, or as the stage before hands them on.
            context: [R, E K, H] neighbors of new chunks; embedded, or encoded where a stage before did it.
            step: The new tokens.
            reading: Who reads what.

        Returns:
            The states after the last layer, and the neighbors: encoded, where it was done here.
        """
        turn = None if self._rotation is None else self._rotation.at(step.position_P)
        cross_turn = None
        if reading.anything and self._cross_rotation is not None:
            cross_turn = self._cross_rotation.at(reading.position_P)
        crossed = 0
        for number, layer in enumerate(self._layers):
            hidden_P1H = read_self(layer, self._own, number, hidden_P1H, step, turn if self._rotates[number] else None)
            cross = layer.cross
            if cross is not None and (reading.anything or cross.encoder is not None):
                normed_P1H = layer.cross_norm(hidden_P1H)
                if cross.encoder is not None:
                    context = self._encode(cross.encoder, context, normed_P1H, step, reading)
                if reading.anything:
                    added = read_neighbors(cross, self._read, crossed, normed_P1H, context, reading, cross_turn)
                    hidden_P1H, crossed = hidden_P1H + added, crossed + 1
            hidden_P1H = add_residual(hidden_P1H, layer.mlp(layer.mlp_norm(hidden_P1H)))
        self._keep_mask(reading)
        return hidden_P1H, context

    def _encode(
        self, encoder: nn.Module, context: Tensor | None, normed_P1H: Tensor, step: Step, reading: Reading
    ) -> Tensor | None:
        """Neighbors of new chunks, encoded in the light of these; the new tokens' states stay in the ring."""
        new = reading.new
        if new is not None and context is not None:
            states_MEH = self._ring.chunks(normed_P1H, new)
            context = encoder(context, states_MEH, new.mask_EKR[:, None], new.real_EM[:, None])
        self._ring.keep(normed_P1H, step)
        return context

    def _keep_mask(self, reading: Reading) -> None:
        if reading.new is None:
            return
        mask_ET = reading.new.mask_EKR.flatten(1)
        for chunk, slot in zip(reading.new.kept, reading.new.kept_slots, strict=True):
            self.mask_BT[slot] = False
            self.mask_BT[slot, : mask_ET.size(1)] = mask_ET[chunk]


def _rotations(model: RetroModel, crosses: list[ChunkedCrossAttention]) -> tuple[Rotation | None, Rotation | None]:
    """Turns of positions in the sequence, and of those from the last of a chunk on."""
    shape, dtype = model.shape, model.config.params_dtype
    own = read = None
    if shape.model.positions == "rope":
        own = Rotation(model.rotary_pos_emb(shape.model.sequence_length), dtype)
    rotaries = [cross.rotary for cross in crosses if cross.rotary is not None]
    if rotaries:
        read = Rotation(rotaries[0](shape.chunk_length, offset=shape.chunk_length - 1), dtype)
    return own, read
