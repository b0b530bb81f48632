"""The two cross-attentions of Retro (Borgeaud et al. 2022, section 2.4 and appendix B).

Both project first, on the sequence layout that megatron-core's parallel linear layers know, and cut into chunks
afterwards. That one choice gives tensor parallelism, rotary positions, grouped queries and fused attention without
special cases.

Under sequence parallelism a rank holds S / T consecutive tokens and R / T of a neighbor's, T tensor parallel ranks: the
parallel projections gather them, so all that is between the projections sees whole sequences.

Positions are counted in the frame of the query chunk: token i of chunk u has position i, token j of a neighbor
position j, so a neighbor's continuation is where the next chunk is. The last token of chunk u is the first to
see the neighbors of chunk u; its position is M - 1.
"""

# Dims in this file.
#   S tokens in the sequence   B sequences   H hidden size   M tokens in a chunk
#   L whole chunks in a sequence, S // M   K neighbors of a chunk   R tokens of a neighbor
#   N heads and G query groups on this rank   D head width
#   s tokens of the sequence on this rank (S, or S / T)   r tokens of a neighbor on this rank (R, or R / T)
#   C neighbors in all, B L K   P real tokens of all of them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.mcore.cpu import device
from retro.mcore.kernels import Kernels
from retro.mcore.layers import (
    MegatronModule,
    ProcessGroupCollection,
    RotaryEmbedding,
    TransformerConfig,
    apply_rotary_pos_emb,
    checkpoint,
    fused_attention,
    init_method_normal,
    scaled_init_method_normal,
)
from retro.model.config import ModelShape
from retro.model.masks import unpack_masks
from retro.model.real_tokens import RealTokens
from retro.model.specs import rotary_positions


class CrossProjections(MegatronModule):
    """The query, key/value and output projections that both cross-attentions have.

    Keys and values of a head are side by side in `linear_kv`, as in megatron-core's own CrossAttention, so tensor
    parallel ranks cut between heads.
    """

    def __init__(
        self, config: TransformerConfig, kernels: Kernels, shape: ModelShape, pg_collection: ProcessGroupCollection
    ) -> None:
        super().__init__(config=config)
        model = shape.model
        self.head_width = model.head_width
        self.tp_group = pg_collection.tp
        draw, draw_output = config.init_method, config.output_layer_init_method
        if model.retrieval_init_std:
            draw = init_method_normal(model.retrieval_init_std)
            draw_output = scaled_init_method_normal(model.retrieval_init_std, config.num_layers)
        common = {"config": config, "bias": model.bias, "is_expert": False, "tp_group": self.tp_group}
        column = common | {"init_method": draw, "gather_output": False, "skip_bias_add": False}
        self.linear_q = kernels.column_linear(model.hidden_size, model.query_width, **column)
        self.linear_kv = kernels.column_linear(model.hidden_size, 2 * model.query_groups * self.head_width, **column)
        self.linear_proj = kernels.row_linear(
            model.query_width,
            model.hidden_size,
            init_method=draw_output,
            input_is_parallel=True,
            skip_bias_add=True,
            **common,
        )
        self.rotary: RotaryEmbedding | None = None
        if model.cross_rope:
            self.rotary = rotary_positions(model, config, pg_collection)

    def query(self, x: Tensor) -> Tensor:
        """[rows on this rank, batch, H] to [rows, batch, N, D]."""
        query, _ = self.linear_q(x)
        return query.unflatten(-1, (-1, self.head_width))

    def key_value(self, x: Tensor) -> Tensor:
        """[rows on this rank, batch, H] to [rows, batch, G, 2 D]: keys, then values, of each group."""
        mixed, _ = self.linear_kv(x)
        return mixed.unflatten(-1, (-1, 2 * self.head_width))

    def rotate(self, x: Tensor, first_position: int, repeats: int = 1) -> Tensor:
        """Rotate [rows, batch, heads, D] by positions `first_position` onwards, `repeats` times from the start."""
        if self.rotary is None:
            return x
        angles = self.rotary(x.size(0) // repeats, offset=first_position)
        return apply_rotary_pos_emb(x, angles.repeat(repeats, 1, 1, 1), config=self.config)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Fused attention, computed again in the backward pass under selective recompute."""
        core = partial(fused_attention, causal=False)
        if self.training and self.config.recompute_granularity == "selective":
            return checkpoint(core, False, query, key, value, mask)
        return core(query, key, value, mask)


class ChunkedCrossAttention(CrossProjections):
    """Decoder tokens read the encoded neighbors of the chunk before them.

    The layer that holds the encoder receives embedded neighbors as context, encodes them once, and hands them on as
    the context of the later layers.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        kernels: Kernels,
        shape: ModelShape,
        pg_collection: ProcessGroupCollection,
        encoder: nn.Module | None = None,
        real_tokens_only: bool = False,
        **_: Any,
    ) -> None:
        super().__init__(config, kernels, shape, pg_collection)
        self.layer_number = layer_number
        self.chunk_length = shape.chunk_length
        self.real_tokens_only = real_tokens_only
        self.retrieved_length = shape.retrieved_length
        self.encoder = encoder
        gate = shape.model.gate
        self.constant_gate = 1.0 if isinstance(gate, str) else gate
        self.learned_gate: nn.Parameter | None = None
        if gate == "learned":
            start = torch.full((1,), shape.model.gate_init, dtype=config.params_dtype, device=device())
            self.learned_gate = nn.Parameter(start)
            # A rank's gradient is that of its own tokens: megatron-core sums those of parameters with this mark.
            self.learned_gate.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.shifts_values = shape.model.cross_values == "next"
        if shape.model.retrieval_init == "copying":
            self._start_as_copying()

    @torch.no_grad()
    def _start_as_copying(self) -> None:
        """Keys as the first query head of their group; outputs the transpose of values.

        Scaled for states of variance one: a token's own score is about sqrt(D) above that of others, and what is read
        comes out about as large as it went in. Each tensor parallel rank has whole heads, and so all it needs.
        """
        query: Any = self.linear_q.weight  # [N D, H]
        key_value: Any = self.linear_kv.weight  # [2 G D, H], keys and values by group
        output: Any = self.linear_proj.weight  # [H, N D]
        width, hidden = self.head_width, query.size(1)
        for weight in (query, key_value):
            weight.mul_(hidden**-0.5 / weight.float().std())
        key_value_G2DH = key_value.view(-1, 2, width, hidden)
        groups = key_value_G2DH.size(0)
        heads_GNDH = query.view(groups, -1, width, hidden)
        key_value_G2DH[:, 0] = heads_GNDH[:, 0]
        values_HG1D = key_value_G2DH[:, 1].permute(2, 0, 1).unsqueeze(2)
        output.view(hidden, groups, -1, width).copy_(values_HG1D / heads_GNDH.size(1))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor | None]:
        """Attend from tokens to neighbors.

        Args:
            hidden_states: [s, B, H] normed decoder states.
            attention_mask: [B, L, K, R + M or R + 2 M] masks of neighbors and chunks, from `pack_masks`.
            key_value_states: [r, B L K, H] neighbors, embedded (in the layer with the encoder) or encoded; [P, 1, H]
                where only their real tokens are computed.

        Returns:
            "output" [s, B, H], exactly zero for tokens without a neighbor, or None when there is nothing to read;
            "context" encoded neighbors, in the shape of the embedded ones.
        """
        if key_value_states is None or attention_mask is None or self.constant_gate == 0.0:
            return {"output": None, "context": key_value_states}
        real_BLKR, chunk_BLM, readers_BLM = unpack_masks(attention_mask, self.chunk_length, self.retrieved_length)
        real = RealTokens.of(real_BLKR.flatten(0, 2)) if self.real_tokens_only else None
        if self.encoder is not None:
            key_value_states = self.encoder(key_value_states, hidden_states, real_BLKR, chunk_BLM, real)
        attended_SBX = self._attend(hidden_states, key_value_states, real_BLKR, real)
        sees = self._of_this_rank(self._sees_neighbor(real_BLKR, attended_SBX.size(0), readers_BLM))
        return {"output": self.project(attended_SBX, sees), "context": key_value_states}

    def keys_and_values(
        self, context: Tensor, real_CKR: Tensor, real: RealTokens | None = None
    ) -> tuple[Tensor, Tensor]:
        """Project encoded neighbors.

        Args:
            context: [r, chunks K, H], in the order of chunks, or [P, 1, H] their real tokens.
            real_CKR: [chunks, K, R] True where a neighbor token is real.
            real: Where the tokens stand, if only the real ones are given.

        Returns:
            [K R, chunks, G, D] keys, rotated, and values.
        """
        neighbors = real_CKR.size(1)
        key_value = self.key_value(context)
        if real is not None:
            key_value = real.spread(key_value)
        key_value = key_value.unflatten(1, (-1, neighbors))
        key_value = key_value.permute(2, 0, 1, 3, 4)  # [K, R, chunks, G, 2 D]
        key, value = key_value.flatten(0, 1).chunk(2, dim=-1)
        if self.shifts_values:
            following = real_CKR.permute(1, 2, 0)[:, 1:, :, None, None].to(value.dtype)
            after = key_value.chunk(2, dim=-1)[1][:, 1:] * following
            value = functional.pad(after, (0, 0, 0, 0, 0, 0, 0, 1)).flatten(0, 1)
        return self.rotate(key, first_position=0, repeats=neighbors), value

    def project(self, attended: Tensor, sees: Tensor | None) -> Tensor:
        """What is added to the residual stream.

        Args:
            attended: [S, B, N D] attended values.
            sees: [s, B, 1] True for tokens that have a neighbor, the others get exact zeros; None: all have.
        """
        output, bias = self.linear_proj(attended)
        if bias is not None:
            output = output + bias
        gate = self.constant_gate if self.learned_gate is None else self.learned_gate
        if sees is not None:
            return output * (gate * sees.to(output.dtype))
        return output if self.learned_gate is None and gate == 1.0 else output * gate

    def _of_this_rank(self, x_SB1: Tensor) -> Tensor:
        """[S, B, 1] to the [s, B, 1] of the tokens that this rank holds."""
        if not self.config.sequence_parallel:
            return x_SB1
        return x_SB1.chunk(self.tp_group.size())[self.tp_group.rank()]

    def _attend(self, hidden_states: Tensor, context: Tensor, real_BLKR: Tensor, real: RealTokens | None) -> Tensor:
        batch, chunks, neighbors, width = real_BLKR.shape
        query_SBND = self.query(hidden_states)
        query = self._to_chunks(query_SBND, chunks)
        key, value = self.keys_and_values(context, real_BLKR.flatten(0, 1), real)
        query = self.rotate(query, first_position=self.chunk_length - 1)
        mask = real_BLKR.reshape(batch * chunks, 1, 1, neighbors * width)
        attended = self.attend(query, key, value, mask)
        return self._to_sequence(attended, batch, chunks, query_SBND.size(0))

    def _to_chunks(self, x_SB: Tensor, chunks: int) -> Tensor:
        """[S, B, ...] to [M, B L, ...]: chunk u holds the M tokens from the last of chunk u on; the end is padded."""
        length = self.chunk_length
        x = x_SB[length - 1 :][: chunks * length]
        missing = chunks * length - x.size(0)
        x = functional.pad(x, (0, 0) * (x.dim() - 1) + (0, missing))
        return x.unflatten(0, (chunks, length)).transpose(0, 1).transpose(1, 2).flatten(1, 2)

    def _to_sequence(self, x: Tensor, batch: int, chunks: int, tokens: int) -> Tensor:
        """The way back from `_to_chunks`: [M, B L, X] to [S, B, X], zeros before the first token that attends."""
        length = self.chunk_length
        x = x.unflatten(1, (batch, chunks)).transpose(1, 2).transpose(0, 1).flatten(0, 1)  # [L M, B, X]
        x = x[: tokens - (length - 1)]
        return functional.pad(x, (0, 0, 0, 0, length - 1, tokens - (length - 1) - x.size(0)))

    def _sees_neighbor(self, real_BLKR: Tensor, tokens: int, readers_BLM: Tensor | None = None) -> Tensor:
        """[S, B, 1] True for tokens whose chunk has at least one neighbor, and is of their own sample."""
        length = self.chunk_length
        any_BLM = real_BLKR.flatten(2).any(dim=-1)[..., None].expand(-1, -1, length)
        sees_BLM = any_BLM if readers_BLM is None else any_BLM & readers_BLM
        sees = sees_BLM.flatten(1).transpose(0, 1)[: tokens - (length - 1)]
        return functional.pad(sees, (0, 0, length - 1, tokens - (length - 1) - sees.size(0)))[..., None]


@dataclass(frozen=True)
class QueryChunks:
    """What the encoder's cross-attention is told of the chunks that it reads, and of the neighbors that read them."""

    mask: Tensor | None
    """[B L, 1, 1, M] True where a chunk token is real; None when all are."""
    real: RealTokens | None = None
    """Where the neighbors' tokens stand, if only real ones are computed."""


class EncoderCrossAttention(CrossProjections):
    """Neighbor tokens read the decoder's states of the chunk that retrieved them.

    All K neighbors of a chunk ask the same keys and values, so these are computed once for the chunk.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        kernels: Kernels,
        shape: ModelShape,
        pg_collection: ProcessGroupCollection,
        **_: Any,
    ) -> None:
        super().__init__(config, kernels, shape, pg_collection)
        self.layer_number = layer_number
        self.chunk_length = shape.chunk_length

    def forward(
        self, hidden_states: Tensor, attention_mask: QueryChunks, key_value_states: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from neighbor tokens to their chunk.

        Args:
            hidden_states: [r, B L K, H] normed neighbor states, or [P, 1, H] of real tokens.
            attention_mask: Which chunk tokens are real, and where the neighbors' stand.
            key_value_states: [s, B, H] decoder states.

        Returns:
            Output in the shape of `hidden_states`, and its bias (or None), as megatron-core's bias-dropout-add expects
            them.
        """
        real = attention_mask.real
        key_value = self._whole_chunks(self.key_value(key_value_states))
        chunks = key_value.size(1)
        query = self.query(hidden_states)
        query = self.rotate(query if real is None else real.spread(query), first_position=0)
        width, neighbors = query.size(0), query.size(1) // chunks
        query = query.unflatten(1, (chunks, neighbors)).transpose(1, 2).flatten(0, 1)  # [R K, B L, N, D]
        key, value = key_value.chunk(2, dim=-1)
        key = self.rotate(key, first_position=0)
        attended = self.attend(query, key, value, attention_mask.mask)
        attended = attended.unflatten(0, (width, neighbors)).transpose(1, 2).flatten(1, 2)
        output, bias = self.linear_proj(attended if real is None else real.pack(attended))
        return output, bias

    def _whole_chunks(self, x_SB: Tensor) -> Tensor:
        """[S, B, G, X] to [M, B L, G, X]: the whole chunks of each sequence."""
        chunks = x_SB.size(0) // self.chunk_length
        x = x_SB[: chunks * self.chunk_length].unflatten(0, (chunks, self.chunk_length))
        return x.permute(1, 2, 0, 3, 4).flatten(1, 2)
