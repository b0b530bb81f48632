"""Transformer Engine's layers, with weights of the same names and shapes as the local ones.

Where Transformer Engine fuses a norm into the linear layer after it, the weights get other names; so norms stay layers
of their own here. What it calls extra state, the scales of FP8, is pickled bytes, which it unpickles when a checkpoint
is loaded. Nothing here computes in FP8: the linear layers keep the empty entry that megatron-core's own have and take
nothing from it, the others have none. So a checkpoint of one kind of layers is one of the other, and safe to load.

Imported only where Transformer Engine is present; see kernels.py.
"""

# Dims: S, B, N, G, D as in layers.py.

from __future__ import annotations

from typing import Any

from megatron.core.extensions.transformer_engine import (
    TEColumnParallelLinear,
    TEDotProductAttention,
    TERowParallelLinear,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from transformer_engine.pytorch import LayerNorm, RMSNorm

from retro.mcore.cpu import device
from retro.mcore.layers import AddsItsBias, FusedAttentionCore


class _NoExtraState:
    """Torch asks a module's class whether it has extra state: with torch's own two methods it has none."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class _EmptyExtraState:
    """Extra state as in megatron-core's own linear layers: an entry that holds nothing and is never read."""

    def get_extra_state(self) -> None:
        """Nothing."""

    def set_extra_state(self, state: Any) -> None:
        """Ignore it."""


class ColumnLinear(_EmptyExtraState, TEColumnParallelLinear):
    """A linear layer whose outputs tensor parallel ranks share."""


class RowLinear(_EmptyExtraState, TERowParallelLinear):
    """A linear layer whose inputs tensor parallel ranks share."""


class TEOutputLinear(AddsItsBias, RowLinear):
    """The second linear layer of a feed-forward layer."""


class _LayerNorm(_NoExtraState, LayerNorm):
    pass


class _RMSNorm(_NoExtraState, RMSNorm):
    pass


class TENorm:
    """LayerNorm or RMSNorm over the last dim, as `config.normalization` says."""

    # A class, because megatron-core's specs build classes and take functions as they are.
    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> Any:
        """The norm; its weights carry `sequence_parallel` as those of the local one do."""
        kind = _RMSNorm if config.normalization == "RMSNorm" else _LayerNorm
        return kind(
            hidden_size,
            eps=eps,
            sequence_parallel=config.sequence_parallel,
            zero_centered_gamma=config.layernorm_zero_centered_gamma,
            params_dtype=config.params_dtype,
            device=device(),
        )


class _CausalAttention(_NoExtraState, TEDotProductAttention):
    pass


class CausalCore(FusedAttentionCore):
    """The core of causal self-attention: Transformer Engine's where every token is real, torch's under a mask.

    Masks here say where attention is allowed, Transformer Engine's where it is not; none is ever handed to it.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: AttnMaskType, **others: Any):
        super().__init__(config, layer_number, attn_mask_type)
        self.unmasked = _CausalAttention(
            config=config, layer_number=layer_number, attn_mask_type=attn_mask_type, **others
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any) -> Tensor:
        """[S, B, N * D] from [S, B, N, D] queries and [S, B, G, D] keys and values; see FusedAttentionCore."""
        if attention_mask is None:
            return self.unmasked(query, key, value, None, AttnMaskType.causal)
        return super().forward(query, key, value, attention_mask)
