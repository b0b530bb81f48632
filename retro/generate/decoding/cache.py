"""What is kept of each sequence, by slot: keys and values, and the states that the encoder is conditioned on.

Memory grows by doubling, so that most tokens move nothing that is there.
"""

# Dims in this file.
#   B slots   T tokens   G query groups on this rank   D head width   P packed tokens   H hidden size
#   E new chunks   M tokens in a chunk

from __future__ import annotations

import torch
from torch import Tensor

from retro.generate.decoding.batch import Batch
from retro.generate.decoding.chunks import NewChunks
from retro.generate.decoding.rows import Segment, SlotCopy

_FIRST_TOKENS = 64


def grown(tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """A tensor of `sizes` that begins with what is there, in every dim; the rest is zero.

    Zero and not left as found: attention multiplies what it may not see by zero, and so must not find a NaN.
    """
    larger = tensor.new_zeros(sizes)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger


class KeyValueCache:
    """Keys and values of some layers: [B, G, T, D] each.

    On a CPU they are kept in float32, in which attention is computed there, also where the model is bfloat16.
    """

    def __init__(
        self, layers: int, groups: int, width: int, *, most_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        kept = torch.float32 if device.type == "cpu" else dtype
        self.keys = [torch.zeros(0, groups, 0, width, dtype=kept, device=device) for _ in range(layers)]
        self.values = [torch.zeros_like(key) for key in self.keys]
        self.slots = 0
        self._tokens, self._most = 0, most_tokens

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values of all layers."""
        return [*self.keys, *self.values]

    def reserve(self, slots: int, tokens: int) -> None:
        """Have room for so many sequences of so many tokens."""
        if slots <= self.slots and tokens <= self._tokens:
            return
        if slots > self.slots:
            self.slots = max(slots, 2 * self.slots)
        if tokens > self._tokens:
            self._tokens = max(tokens, min(max(2 * self._tokens, _FIRST_TOKENS), self._most))
        for kept in (self.keys, self.values):
            for number, tensor in enumerate(kept):
                kept[number] = grown(tensor, (self.slots, tensor.size(1), self._tokens, tensor.size(3)))

    def copy_slot(self, copy: SlotCopy) -> None:
        """Copy the first entries of a slot to another."""
        for tensor in self.tensors:
            tensor[copy.target, :, : copy.tokens] = tensor[copy.source, :, : copy.tokens]

    def segment(self, slot: int, tokens: int) -> Segment:
        """A copy of the first entries of a slot, for several sequences to share."""
        keys, values = ([x[slot, :, :tokens].clone() for x in kept] for kept in (self.keys, self.values))
        return Segment(keys, values, tokens)

    def shrink(self, tokens: int) -> None:
        """Free memory where slots are much larger than their longest sequence."""
        tokens = max(2 * tokens, _FIRST_TOKENS)
        if 2 * tokens > self._tokens:
            return
        self._tokens = tokens
        for kept in (self.keys, self.values):
            for number, tensor in enumerate(kept):
                kept[number] = tensor[:, :, :tokens].clone()


class EncoderStateBuffer:
    """The normed states of each row's last M tokens at the first cross-attention, which the encoder is conditioned on.

    A ring buffer, position p in place p mod M, since any token may end a chunk.
    """

    def __init__(self, chunk_length: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.chunk_length = chunk_length
        self.states_BMH = torch.zeros(0, chunk_length, hidden_size, dtype=dtype, device=device)

    def reserve(self, slots: int) -> None:
        """Have room for so many sequences."""
        if slots > len(self.states_BMH):
            self.states_BMH = grown(self.states_BMH, (slots, *self.states_BMH.shape[1:]))

    def copy_slot(self, copy: SlotCopy) -> None:
        """Copy what is in a slot to another."""
        self.states_BMH[copy.target] = self.states_BMH[copy.source]

    def chunks(self, states_P1H: Tensor, new: NewChunks) -> Tensor:
        """[M, E, H] states of the tokens of new chunks, from the buffer and from this call."""
        states_EMH = states_P1H[:, 0][new.token_EM]
        if not new.all_new:
            before_EMH = self.states_BMH[new.slot_E1, new.buffer_EM]
            states_EMH = torch.where(new.new_EM[..., None], states_EMH, before_EMH)
        # Made contiguous: torch multiplies a transposed tensor one chunk token at a time.
        return states_EMH.transpose(0, 1).contiguous()

    def store(self, states_P1H: Tensor, batch: Batch) -> None:
        """Store the new tokens' states."""
        length = self.chunk_length
        if batch.singles:
            slots, positions = batch.slot_P[: batch.singles], batch.position_P[: batch.singles]
            self.states_BMH[slots, positions % length] = states_P1H[: batch.singles, 0]
        for span in batch.spans[batch.singles :]:
            count = min(span.count, length)
            end = span.offset + span.count
            places = batch.position_P[end - count : end] % length
            self.states_BMH[span.row.slot, places] = states_P1H[end - count : end, 0]
