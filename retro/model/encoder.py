"""The neighbor encoder: bidirectional layers over each neighbor, the first of which reads the query chunk.

Its layers are megatron-core transformer layers; residuals run on the unnormalized stream throughout.
"""

# Dims: S, s, B, H, M, L, K, R, r as in attention.py; C, P as in real_tokens.py.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retro.mcore.kernels import Kernels
from retro.mcore.layers import (
    AttnMaskType,
    FusedAttentionCore,
    IdentityFuncOp,
    IdentityOp,
    MegatronModule,
    ModuleSpec,
    ProcessGroupCollection,
    RotaryEmbedding,
    TransformerConfig,
    TransformerLayer,
    TransformerLayerSubmodules,
    apply_rotary_pos_emb,
    build_module,
    get_bias_dropout_add,
    sharded_state_dict_default,
)
from retro.model.attention import EncoderCrossAttention, QueryChunks
from retro.model.config import ModelShape
from retro.model.real_tokens import RealTokens
from retro.model.specs import mlp_spec, rotary_positions, self_attention_spec


class NeighborCore(FusedAttentionCore):
    """The attention core of the encoder's self-attention: tokens see the real tokens of their neighbor.

    It rotates queries and keys, as megatron-core does before its cores, since positions are those in a whole neighbor.
    """

    angles: Callable[[int], Tensor] | None = None
    """[R, 1, 1, D] by R; None rotates nothing."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any) -> Tensor:
        """Attend under a mask [C, 1, 1, R], from [R, C, N, D] queries or the [P, 1, N, D] of real tokens."""
        if attention_mask is None:
            raise ValueError("the encoder's self-attention needs the mask of real tokens")
        if query.shape[:2] == (attention_mask.size(-1), attention_mask.size(0)):
            return self._rotated(query, key, value, attention_mask)
        real = RealTokens.of(attention_mask[:, 0, 0])
        return real.pack(self._rotated(real.spread(query), real.spread(key), real.spread(value), attention_mask))

    def _rotated(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        if self.angles is not None:
            angles = self.angles(query.size(0))
            query, key = (apply_rotary_pos_emb(x, angles, config=self.config) for x in (query, key))
        return super().forward(query, key, value, mask)


def encoder_layer_spec(kernels: Kernels, shape: ModelShape, *, reads_chunk: bool) -> ModuleSpec:
    """One encoder layer; the first one (`reads_chunk`) has a cross-attention to the query chunk."""
    cross = ModuleSpec(module=EncoderCrossAttention, params={"kernels": kernels, "shape": shape})
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=kernels.norm,
            self_attention=self_attention_spec(
                kernels, AttnMaskType.padding, NeighborCore, qk_norm=shape.model.qk_norm
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_cross_attn_layernorm=kernels.norm if reads_chunk else IdentityOp,
            cross_attention=cross if reads_chunk else IdentityOp,
            cross_attn_bda=get_bias_dropout_add if reads_chunk else IdentityFuncOp,
            pre_mlp_layernorm=kernels.norm,
            mlp=mlp_spec(kernels),
            mlp_bda=get_bias_dropout_add,
        ),
    )


class NeighborEncoder(MegatronModule):
    """Encodes every neighbor of every chunk, conditioned on the chunk (Borgeaud et al. 2022, section 2.4)."""

    def __init__(
        self, config: TransformerConfig, kernels: Kernels, shape: ModelShape, pg_collection: ProcessGroupCollection
    ) -> None:
        super().__init__(config=config)
        self.layers: nn.ModuleList = nn.ModuleList(
            build_module(
                encoder_layer_spec(kernels, shape, reads_chunk=number == 1),
                config=config,
                layer_number=number,
                pg_collection=pg_collection,
            )
            for number in range(1, shape.model.encoder_layers + 1)
        )
        self.final_layernorm: nn.Module | None = None
        if shape.model.encoder_norm:
            norm: Any = kernels.norm
            self.final_layernorm = norm(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        if shape.model.retrieval_init == "copying":
            self._start_as_nothing()
        self.rotary: RotaryEmbedding | None = None
        if shape.model.encoder_rope:
            self.rotary = rotary_positions(shape.model, config, pg_collection)
            for layer in self.layers:
                attention: Any = layer.self_attention
                attention.core_attention.angles = partial(self.rotary)

    @torch.no_grad()
    def _start_as_nothing(self) -> None:
        """Let every layer add zero at first, for a look-up reads the tokens themselves: fresh layers hide these."""
        for name, parameter in self.named_parameters():
            if "linear_proj" in name or "linear_fc2" in name:
                parameter.zero_()

    def forward(
        self,
        neighbors: Tensor,
        decoder_states: Tensor,
        real_BLKR: Tensor,
        chunk_BLM: Tensor,
        real: RealTokens | None = None,
    ) -> Tensor:
        """Encode neighbors.

        Args:
            neighbors: [r, B L K, H] embedded neighbors, or [P, 1, H] their real tokens.
            decoder_states: [s, B, H] normed decoder states at the first cross-attention layer.
            real_BLKR: True where a neighbor token is real.
            chunk_BLM: True where a token of the query chunk is real.
            real: Where the tokens stand, if only the real ones are given.

        Returns:
            [r, B L K, H] encoded neighbors, or [P, 1, H].
        """
        chunks = QueryChunks(chunk_BLM.flatten(0, 1)[:, None, None, :], real)
        self_mask = real_BLKR.flatten(0, 2)[:, None, None, :]
        hidden = neighbors
        for layer in self.layers:
            hidden, _ = layer(
                hidden_states=hidden,
                attention_mask=self_mask,
                context=decoder_states,
                context_mask=chunks,
            )
        return hidden if self.final_layernorm is None else self.final_layernorm(hidden)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Each layer describes its own shards; a plain ModuleList would be taken as replicated."""
        state: dict[str, Any] = {}
        for number, layer in enumerate(self.layers):
            describe: Any = layer.sharded_state_dict
            state.update(describe(f"{prefix}layers.{number}.", sharded_offsets, metadata))
        if self.final_layernorm is not None:
            describe = sharded_state_dict_default
            state.update(describe(self.final_layernorm, f"{prefix}final_layernorm.", sharded_offsets, metadata))
        return state
