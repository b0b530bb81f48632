"""Decoders without caches, the truth for the one with: whole sequences, computed again at every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from retro.generate.request import Extension, Knowledge, KnowledgeShape, Neighbors
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.reference import ReferenceRetro


@dataclass
class Given:
    """All that a sequence was given."""

    tokens: list[int] = field(default_factory=list)
    chunks: dict[int, Neighbors] = field(default_factory=dict)
    """By the position of the token that ends the chunk."""


class Recompute:
    """What both have: `request.Decoder` over a function of one whole sequence."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self.vocabulary = shape.vocabulary
        self.ends: tuple[int, ...] = (0,)
        self.sequence_length, self.chunk_length = shape.model.sequence_length, shape.chunk_length
        self.neighbors, self.retrieved_length = shape.model.neighbors, shape.retrieved_length
        self.reads_neighbors = shape.model.retrieval
        self.adapters: tuple[str, ...] = ()
        self.knowledge_shape: KnowledgeShape | None = None
        self._open: dict[int, Given] = {}
        self._next = 0

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        self._next += 1
        self._open[self._next] = Given()
        return self._next

    def fork(self, row: int, count: int) -> list[int]:
        source, forks = self._open[row], [self.open() for _ in range(count)]
        for fork in forks:
            self._open[fork] = Given(list(source.tokens), dict(source.chunks))
        return forks

    def close(self, row: int) -> None:
        del self._open[row]

    def extend(self, extensions: Sequence[Extension]) -> Tensor:
        return torch.stack([logits[-1] for logits in self.extend_all(extensions)])

    @torch.inference_mode()
    def extend_all(self, extensions: Sequence[Extension]) -> list[Tensor]:
        found = []
        for one in extensions:
            sequence = self._open[one.row]
            before = len(sequence.tokens)
            sequence.tokens += one.tokens
            sequence.chunks |= {before + place: neighbors for place, neighbors in one.neighbors.items()}
            found.append(self.logits(sequence)[before:, : self.vocabulary])
        return found

    def logits(self, sequence: Given) -> Tensor:
        raise NotImplementedError


class RecomputeDecoder(Recompute):
    """The model itself on the left-padded sequence. All chunks of a sequence must end M tokens apart."""

    def __init__(self, model: RetroModel) -> None:
        super().__init__(model.shape)
        self.model = model.eval()

    def logits(self, sequence: Given) -> Tensor:
        length, width = self.chunk_length, self.retrieved_length
        pad = -(min(sequence.chunks, default=length - 1) + 1) % length
        tokens = torch.tensor([[0] * pad + sequence.tokens])
        real = torch.arange(tokens.size(1))[None] >= pad
        most = max((len(one.tokens_KR) for one in sequence.chunks.values()), default=1)
        neighbors = np.zeros((1, tokens.size(1) // length, most, width), dtype=np.int64)
        mask = np.zeros(neighbors.shape, dtype=bool)
        for position, one in sequence.chunks.items():
            chunk, rest = divmod(position + 1 + pad, length)
            assert rest == 0, "chunks end off the grid: compare with EventReference"
            neighbors[0, chunk - 1, : len(one.tokens_KR)] = one.tokens_KR
            mask[0, chunk - 1, : len(one.tokens_KR)] = one.mask_KR
        logits_BSV = self.model(tokens, torch.from_numpy(neighbors), torch.from_numpy(mask), real, gather_logits=True)
        return logits_BSV[0, pad:]


class EventReference(Recompute):
    """Plain torch, token by token, with chunks that end anywhere."""

    def __init__(self, model: RetroModel) -> None:
        super().__init__(model.shape)
        weights = {name: value.detach() for name, value in model.named_parameters()}
        self.plain = ReferenceRetro(model.shape, weights)

    def logits(self, sequence: Given) -> Tensor:
        plain, settings = self.plain, self.shape.model
        length = len(sequence.tokens)
        positions = torch.arange(length)
        x_SH = plain._embed(torch.tensor(sequence.tokens), positions)
        causal_SS = torch.ones(length, length, dtype=torch.bool).tril()
        rotary = range(length) if settings.positions == "rope" else None
        encoded: dict[int, Tensor] = {}
        for number in range(1, settings.layers + 1):
            name = f"decoder.layers.{number - 1}."
            normed_SH = plain._norm(name + "input_layernorm", x_SH)
            x_SH = x_SH + plain._self_attention(name, normed_SH, causal_SS, rotary)
            if number in settings.cross_attention_layers:
                normed_SH = plain._norm(name + "pre_cross_attn_layernorm", x_SH)
                if number == settings.cross_attention_layers[0]:
                    encoded = {end: self._encode(name, normed_SH, end, sequence) for end in sequence.chunks}
                x_SH = x_SH + torch.stack(
                    [self._read(name, normed_SH, position, encoded, sequence) for position in range(length)]
                )
            x_SH = x_SH + plain._mlp(name + "mlp.", plain._norm(name + "pre_mlp_layernorm", x_SH))
        return plain.logits(plain._norm("decoder.final_layernorm", x_SH))

    def _encode(self, name: str, normed_SH: Tensor, end: int, sequence: Given) -> Tensor:
        """[K R, H] neighbors of the chunk that ends with a token, conditioned on the last M states."""
        missing = max(self.chunk_length - (end + 1), 0)
        states_MH = normed_SH[max(end + 1 - self.chunk_length, 0) : end + 1]
        states_MH = torch.cat((normed_SH.new_zeros(missing, states_MH.size(1)), states_MH))
        real_M = torch.arange(self.chunk_length) >= missing
        given = sequence.chunks[end]
        prefix = name + "cross_attention.encoder."
        tokens_KR, mask_KR = torch.from_numpy(given.tokens_KR), torch.from_numpy(given.mask_KR)
        return torch.cat(
            [
                self.plain._encode_one(prefix, tokens_R, mask_R, states_MH, real_M)
                for tokens_R, mask_R in zip(tokens_KR, mask_KR, strict=True)
            ]
        )

    def _read(self, name: str, normed_SH: Tensor, position: int, encoded: dict[int, Tensor], sequence: Given) -> Tensor:
        """[H] what one token finds in the neighbors of the last chunk that ended, unless that was too long ago."""
        ended = max((end for end in encoded if end <= position), default=None)
        nothing = torch.zeros_like(normed_SH[position])
        if ended is None or position - ended >= self.chunk_length:
            return nothing
        mask = torch.from_numpy(sequence.chunks[ended].mask_KR).flatten()
        if not mask.any():
            return nothing
        frame = None
        if self.shape.model.cross_rope:
            own = self.chunk_length - 1 + position - ended
            keys = list(range(self.retrieved_length)) * len(sequence.chunks[ended].tokens_KR)
            frame = (range(own, own + 1), keys)
        prefix, gate = name + "cross_attention.", self.shape.model.gate
        factor = self.plain.weights[prefix + "learned_gate"] if gate == "learned" else gate
        found = self.plain._cross(prefix, normed_SH[position : position + 1], encoded[ended], mask[None], frame)
        return (factor * found)[0]
