"""Retro in plain torch, without megatron, parallelism or fused kernels: the truth that every parity test compares with.

Written to be read beside the papers (Borgeaud et al. 2022, section 2.4; Wang et al. 2023, section 3). It loops over
sequences, chunks and neighbors where the real model reshapes, and it takes the real model's weights by their names.

`retro export` copies the class below into the modelling file of an exported folder, so it needs torch alone, works on
any device, and computes norms and softmax in float32 where the weights are narrower.
"""

# Dims in this file.
#   S tokens   T keys   H hidden   M tokens in a chunk   R tokens of a neighbor   K neighbors of a chunk
#   N heads   D head width   V padded vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retro.model.config import ModelShape


def rope_frequencies(model: Any) -> Tensor:
    """base^(-2i/width). Llama 3.1 divides slow ones by a factor, keeps fast ones, goes over between 8,192 and 2,048."""
    width = int(model.head_width * model.rope_percent)
    frequency_F = model.rope_base ** -(torch.arange(0, width, 2).float() / width)
    period_F = 2 * math.pi / frequency_F
    kept_F = ((8192 / period_F - 1) / (4 - 1)).clamp(0, 1)
    return kept_F * frequency_F + (1 - kept_F) * frequency_F / model.rope_scaling


FREQUENCIES: dict[str, Callable[[Any], Tensor]] = {"rope": rope_frequencies}
"""By kind of rotary positions, radians from one position to the next, for each pair; `learned` and `none` rotate
nothing in the decoder, and encoder and cross-attention as `rope` does."""


class ReferenceRetro:
    """One forward pass at a time, one sequence at a time."""

    def __init__(self, shape: ModelShape, weights: Mapping[str, Tensor]) -> None:
        self.shape, self.model, self.weights = shape, shape.model, weights
        if self.model.positions not in (*FREQUENCIES, "learned", "none"):
            raise ValueError(f"positions {self.model.positions!r} have no row in FREQUENCIES")

    def __call__(
        self,
        tokens_BS: Tensor,
        neighbors_BLKR: Tensor | None = None,
        neighbor_mask_BLKR: Tensor | None = None,
        token_mask_BS: Tensor | None = None,
        segments_BS: Tensor | None = None,
    ) -> Tensor:
        """[B, S, V] logits; arguments as in RetroModel."""
        return self.logits(self.hidden(tokens_BS, neighbors_BLKR, neighbor_mask_BLKR, token_mask_BS, segments_BS))

    def logits(self, hidden_BSH: Tensor) -> Tensor:
        """[B, S, V] from the final hidden states."""
        output = "embedding.word_embeddings.weight" if self.model.tied_embeddings else "output_layer.weight"
        return hidden_BSH @ self.weights[output].T

    def hidden(
        self,
        tokens_BS: Tensor,
        neighbors_BLKR: Tensor | None = None,
        neighbor_mask_BLKR: Tensor | None = None,
        token_mask_BS: Tensor | None = None,
        segments_BS: Tensor | None = None,
        embedded_BSH: Tensor | None = None,
        positions_BS: Tensor | None = None,
        states: list[list[Tensor]] | None = None,
    ) -> Tensor:
        """[B, S, H] hidden states after the final norm; with segments, zeros on padding between samples.

        Without segments, `embedded_BSH` stands for the embedded tokens, `positions_BS` for the positions 0, 1, ... of
        the real tokens, and `states` is given a list for each sequence: the embedding, and what each layer gives.
        """
        rows = []
        for b, tokens_S in enumerate(tokens_BS):
            neighbors = None if neighbors_BLKR is None else neighbors_BLKR[b]
            mask = None if neighbor_mask_BLKR is None else neighbor_mask_BLKR[b]
            if segments_BS is not None:
                rows.append(self._one_by_one(tokens_S, neighbors, mask, segments_BS[b]))
                continue
            real_S = torch.ones_like(tokens_S, dtype=torch.bool) if token_mask_BS is None else token_mask_BS[b]
            embedded, positions = (None if x is None else x[b] for x in (embedded_BSH, positions_BS))
            layers: list[Tensor] = []
            rows.append(self._sequence(tokens_S, neighbors, mask, real_S, embedded, positions, layers))
            if states is not None:
                states.append(layers)
        return torch.stack(rows)

    def _one_by_one(
        self, tokens_S: Tensor, neighbors_LKR: Tensor | None, mask_LKR: Tensor | None, segments_S: Tensor
    ) -> Tensor:
        """Samples in a row, each as a sequence of its own from the chunk border before its first token on."""
        m = 1 if neighbors_LKR is None else self.shape.chunk_length
        x_SH = self.weights["embedding.word_embeddings.weight"].new_zeros(len(tokens_S), self.model.hidden_size)
        for number in range(1, int(segments_S.max()) + 1):
            places = (segments_S == number).nonzero()[:, 0].tolist()
            first, last = places[0] // m * m, places[-1] + 1
            neighbors, mask = (None if x is None else x[first // m : last // m] for x in (neighbors_LKR, mask_LKR))
            alone = self._sequence(tokens_S[first:last], neighbors, mask, segments_S[first:last] == number)
            x_SH = x_SH.index_copy(0, torch.tensor(places, device=x_SH.device), alone[places[0] - first :])
        return x_SH

    def _sequence(
        self,
        tokens_S: Tensor,
        neighbors_LKR: Tensor | None,
        mask_LKR: Tensor | None,
        real_S: Tensor,
        embedded_SH: Tensor | None = None,
        positions_S: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        states = [] if states is None else states
        places_S = (real_S.long().cumsum(0) - 1).clamp(min=0) if positions_S is None else positions_S
        x_SH = self._embed(tokens_S, places_S, embedded_SH)
        # Without padding, as with it, only how far two tokens stand apart turns them.
        turns = range(len(tokens_S)) if positions_S is None else positions_S.tolist()
        length = len(tokens_S)
        causal_SS = torch.ones_like(real_S).expand(length, length).tril() & real_S
        encoded: list[list[Tensor]] | None = None
        reading = self.model.cross_attention_layers if neighbors_LKR is not None else ()
        for number in range(1, self.model.layers + 1):
            name = f"decoder.layers.{number - 1}."
            skips = self.model.rope_skip_interval and number % self.model.rope_skip_interval == 0
            rotary = turns if self.model.positions in FREQUENCIES and not skips else None
            states.append(x_SH)
            x_SH = x_SH + self._self_attention(name, self._norm(name + "input_layernorm", x_SH), causal_SS, rotary)
            if number in reading:
                assert neighbors_LKR is not None and mask_LKR is not None
                normed_SH = self._norm(name + "pre_cross_attn_layernorm", x_SH)
                if encoded is None:
                    encoded = self._encode(
                        name + "cross_attention.encoder.", normed_SH, neighbors_LKR, mask_LKR, real_S
                    )
                x_SH = x_SH + self._chunked_cross_attention(name + "cross_attention.", normed_SH, encoded, mask_LKR)
            x_SH = x_SH + self._mlp(name + "mlp.", self._norm(name + "pre_mlp_layernorm", x_SH))
        states.append(self._norm("decoder.final_layernorm", x_SH))
        return states[-1]

    def _encode(
        self, name: str, normed_SH: Tensor, neighbors_LKR: Tensor, mask_LKR: Tensor, real_S: Tensor
    ) -> list[list[Tensor]]:
        """Encode neighbor k of chunk u on its own, conditioned on the decoder's states of chunk u."""
        m = self.shape.chunk_length
        return [
            [
                self._encode_one(
                    name,
                    neighbors_LKR[u, k],
                    mask_LKR[u, k],
                    normed_SH[u * m : u * m + m],
                    real_S[u * m : u * m + m],
                )
                for k in range(neighbors_LKR.size(1))
            ]
            for u in range(len(normed_SH) // m)
        ]

    def _encode_one(self, name: str, tokens_R: Tensor, real_R: Tensor, chunk_MH: Tensor, real_M: Tensor) -> Tensor:
        width, m = len(tokens_R), len(chunk_MH)
        x_RH = self._embed(tokens_R, torch.arange(width, device=tokens_R.device))
        for number in range(self.model.encoder_layers):
            layer = f"{name}layers.{number}."
            rotary = range(width) if self.model.encoder_rope else None
            mask_RR = real_R.expand(width, width)
            x_RH = x_RH + self._self_attention(layer, self._norm(layer + "input_layernorm", x_RH), mask_RR, rotary)
            if number == 0:
                normed_RH = self._norm(layer + "pre_cross_attn_layernorm", x_RH)
                positions = (range(width), range(m)) if self.model.cross_rope else None
                x_RH = x_RH + self._cross(
                    layer + "cross_attention.", normed_RH, chunk_MH, real_M.expand(width, m), positions
                )
            x_RH = x_RH + self._mlp(layer + "mlp.", self._norm(layer + "pre_mlp_layernorm", x_RH))
        return self._norm(name + "final_layernorm", x_RH) if self.model.encoder_norm else x_RH

    def _chunked_cross_attention(
        self, name: str, normed_SH: Tensor, encoded: list[list[Tensor]], mask_LKR: Tensor
    ) -> Tensor:
        """Tokens (u+1)M - 1 to (u+2)M - 2 read the neighbors of chunk u; all others get zero."""
        m, length = self.shape.chunk_length, len(normed_SH)
        gate = self.weights[name + "learned_gate"] if self.model.gate == "learned" else self.model.gate
        pieces = [normed_SH.new_zeros(min(m - 1, length), normed_SH.size(1))]
        for u, of_chunk in enumerate(encoded):
            first, last = (u + 1) * m - 1, min((u + 2) * m - 1, length)
            real = mask_LKR[u].flatten()
            if not real.any():
                pieces.append(normed_SH.new_zeros(last - first, normed_SH.size(1)))
                continue
            keys = torch.cat(of_chunk)
            key_positions = list(range(self.shape.retrieved_length)) * len(of_chunk)
            positions = (range(m - 1, m - 1 + last - first), key_positions) if self.model.cross_rope else None
            mask_KR = mask_LKR[u] if self.model.cross_values == "next" else None
            read = self._cross(
                name, normed_SH[first:last], keys, real.expand(last - first, len(keys)), positions, mask_KR
            )
            pieces.append(gate * read)
        return torch.cat(pieces)

    def _embed(self, tokens_S: Tensor, positions_S: Tensor, embedded_SH: Tensor | None = None) -> Tensor:
        x_SH = self.weights["embedding.word_embeddings.weight"][tokens_S] if embedded_SH is None else embedded_SH
        if self.model.positions == "learned":
            x_SH = x_SH + self.weights["embedding.position_embeddings.weight"][positions_S]
        return x_SH

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[name + ".weight"].float() + (1.0 if self.model.zero_centered_norm else 0.0)
        wide = x.float()
        if self.model.normalization == "RMSNorm":
            return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.model.norm_epsilon) * weight).to(
                x.dtype
            )
        centered = wide - wide.mean(-1, keepdim=True)
        scaled = centered * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + self.model.norm_epsilon)
        return (scaled * weight + self.weights[name + ".bias"]).to(x.dtype)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0.0)

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        inner = self._linear(name + "linear_fc1", x)
        if self.model.activation == "swiglu":
            gate, up = inner.chunk(2, dim=-1)
            return self._linear(name + "linear_fc2", functional.silu(gate) * up)
        if self.model.activation == "squared_relu":
            return self._linear(name + "linear_fc2", functional.relu(inner).square())
        approximate = "tanh" if self.model.activation == "gelu_tanh" else "none"
        return self._linear(name + "linear_fc2", functional.gelu(inner, approximate=approximate))

    def _self_attention(self, layer: str, x_SH: Tensor, mask_SS: Tensor, positions: range | list[int] | None) -> Tensor:
        """Query heads of a group are before the group's key and value in the fused projection."""
        groups, width = self.model.query_groups, self.model.head_width
        per_group = self.model.heads // groups
        mixed = self._linear(layer + "self_attention.linear_qkv", x_SH).view(len(x_SH), groups, per_group + 2, width)
        query, key, value = (
            mixed[:, :, :per_group].flatten(1, 2),
            mixed[:, :, per_group],
            mixed[:, :, per_group + 1],
        )
        if self.model.qk_norm:
            query = self._norm(layer + "self_attention.q_layernorm", query)
            key = self._norm(layer + "self_attention.k_layernorm", key)
        rotated = (positions, positions) if positions is not None else None
        return self._linear(layer + "self_attention.linear_proj", self._attend(query, key, value, mask_SS, rotated))

    def _cross(
        self,
        name: str,
        x_SH: Tensor,
        keys_TH: Tensor,
        mask_ST: Tensor,
        positions: tuple[range | list[int], range | list[int]] | None,
        real_KR: Tensor | None = None,
    ) -> Tensor:
        """With `real_KR`, each of K neighbors' R tokens tells the one after it, where that is real."""
        query = self._linear(name + "linear_q", x_SH).view(len(x_SH), self.model.heads, -1)
        key, value = (
            self._linear(name + "linear_kv", keys_TH).view(len(keys_TH), self.model.query_groups, -1).chunk(2, -1)
        )
        if real_KR is not None:
            value_KRGD = value.unflatten(0, real_KR.shape)
            value = functional.pad(value_KRGD[:, 1:] * real_KR[:, 1:, None, None], (0, 0, 0, 0, 0, 1)).flatten(0, 1)
        return self._linear(name + "linear_proj", self._attend(query, key, value, mask_ST, positions))

    def _attend(
        self,
        query_SND: Tensor,
        key_TGD: Tensor,
        value_TGD: Tensor,
        mask_ST: Tensor,
        positions: tuple[range | list[int], range | list[int]] | None,
    ) -> Tensor:
        if positions is not None:
            query_SND, key_TGD = self._rotate(query_SND, positions[0]), self._rotate(key_TGD, positions[1])
        repeat = query_SND.size(1) // key_TGD.size(1)
        key, value = key_TGD.repeat_interleave(repeat, 1), value_TGD.repeat_interleave(repeat, 1)
        scores_NST = torch.einsum("snd,tnd->nst", query_SND, key) / math.sqrt(self.model.head_width)
        # A row that may see nothing belongs to padding; let it see everything so that it stays finite.
        allowed_ST = mask_ST | ~mask_ST.any(-1, keepdim=True)
        weights_NST = scores_NST.masked_fill(~allowed_ST, float("-inf")).softmax(-1, dtype=torch.float32)
        return torch.einsum("nst,tnd->snd", weights_NST.to(value.dtype), value).flatten(1)

    def _rotate(self, x_SND: Tensor, positions: range | list[int]) -> Tensor:
        """Rotary embedding (Su et al. 2021): pair (i, i + half) turns by position * base^(-2i/dim)."""
        width = int(self.model.head_width * self.model.rope_percent)
        kind = self.model.positions if self.model.positions in FREQUENCIES else "rope"
        frequency = FREQUENCIES[kind](self.model)
        angle_SF = torch.tensor(list(positions)).float()[:, None] * frequency
        cos, sin = (turn[:, None].to(x_SND) for turn in (angle_SF.cos(), angle_SF.sin()))
        first, second, rest = x_SND.split([width // 2, width // 2, x_SND.size(-1) - width], dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)
