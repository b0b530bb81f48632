"""The megatron-core layers this project builds on, and the two it needs in a form that runs everywhere.

megatron-core's local spec has a norm that refuses sequence parallelism and an attention core that is unfused and
allocates on CUDA. The norm and the attention core here take their places; everything else is megatron-core's.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from megatron.core.tensor_parallel.random import checkpoint, get_cuda_rng_tracker
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityFuncOp, IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint, sharded_state_dict_default
from megatron.core.utils import init_method_normal, scaled_init_method_normal
from torch import Tensor, nn
from torch.nn import functional

# Dims in this file.
#   S query tokens   T key tokens   B sequences   N heads on this rank   G query groups on this rank   D head width


__all__ = [
    "MLP",
    "AttnMaskType",
    "ColumnParallelLinear",
    "FusedAttentionCore",
    "GPTModel",
    "IdentityFuncOp",
    "IdentityOp",
    "MLPSubmodules",
    "MegatronModule",
    "ModuleSpec",
    "Norm",
    "OutputLinear",
    "ProcessGroupCollection",
    "RotaryEmbedding",
    "RowParallelLinear",
    "SelfAttention",
    "SelfAttentionSubmodules",
    "TransformerBlockSubmodules",
    "TransformerConfig",
    "TransformerLayer",
    "TransformerLayerSubmodules",
    "apply_rotary_pos_emb",
    "build_module",
    "checkpoint",
    "copy_to_tensor_model_parallel_region",
    "fused_attention",
    "get_bias_dropout_add",
    "get_num_layers_to_build",
    "get_transformer_layer_offset",
    "init_method_normal",
    "require_norms",
    "scaled_init_method_normal",
    "set_tensor_model_parallel_attributes",
    "sharded_along",
    "sharded_state_dict_default",
]


def sharded_along(
    name: str, tensor: Tensor, axis: int, prefix: str, sharded_offsets: tuple[Any, ...], metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """What a module's `sharded_state_dict` says of a tensor that tensor parallel ranks share out along an axis."""
    found: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        {name: tensor},
        prefix,
        {name: axis},
        sharded_offsets,
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        dp_cp_group=(metadata or {})["dp_cp_group"],
    )
    return found


class Norm(MegatronModule):
    """LayerNorm or RMSNorm over the last dim, as `config.normalization` says.

    With `layernorm_zero_centered_gamma` the stored weight is the distance from one (NVIDIA's LayerNorm-1p), so
    weight decay pulls the scale towards one. The parameters carry `sequence_parallel`, which is what makes
    megatron-core sum their gradients over the tensor parallel ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(config=config)
        self.eps = eps
        self.width = hidden_size
        self.rms = config.normalization == "RMSNorm"
        self.offset = 1.0 if config.layernorm_zero_centered_gamma else 0.0
        dtype = config.params_dtype
        self.weight = nn.Parameter(torch.full((hidden_size,), 1.0 - self.offset, dtype=dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.bias: nn.Parameter | None = None
        if not self.rms:
            self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=dtype))
            self.bias.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        if not config.use_cpu_initialization:
            self.cuda(torch.cuda.current_device())

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        weight = self.weight + self.offset if self.offset else self.weight
        if self.rms:
            return functional.rms_norm(x, (self.width,), weight, self.eps)
        return functional.layer_norm(x, (self.width,), weight, self.bias, self.eps)


def require_norms(attention: SelfAttention) -> None:
    """Give self-attention norms of queries and keys that change nothing where it has none, as in 0.19."""
    for name in ("q_layernorm", "k_layernorm"):
        if getattr(attention, name) is None:
            setattr(attention, name, IdentityOp())


class AddsItsBias:
    """Goes before a row-parallel linear layer of megatron-core, which then adds its bias itself.

    For the second linear layer of a feed-forward layer. Alone it hands the bias on, to be added with the residual; but
    torch takes a parameter that leaves a recomputed layer for a result of it, and the backward pass never ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"skip_bias_add": False}))


class OutputLinear(AddsItsBias, RowParallelLinear):
    """The second linear layer of a feed-forward layer."""


def fused_attention(
    query_SBND: Tensor,
    key_TBGD: Tensor,
    value_TBGD: Tensor,
    mask: Tensor | None,
    *,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention in one fused call of torch.

    Args:
        query_SBND: [S, B, N, D] queries.
        key_TBGD: [T, B, G, D] keys; N must be a multiple of G.
        value_TBGD: [T, B, G, D] values.
        mask: True where a query may attend, broadcastable to [B, N, S, T]; or None. A query that may attend
            to nothing gives a finite value that the caller must drop.
        causal: Whether query s may only see keys up to s. Not together with `mask`.
        dropout: Probability of dropping an attention weight.

    Returns:
        [S, B, N * D] attended values.
    """
    # torch 2.13's bfloat16 backward on a CPU takes 2 to 3 times as long as its float32 one (2 Xeon cores, 64 x 4 heads
    # x 128 x 128: 105 ms against 37 ms), so attention alone is computed in float32 there.
    dtype = query_SBND.dtype
    compute = torch.float32 if query_SBND.device.type == "cpu" else dtype
    query, key, value = (x.permute(1, 2, 0, 3).to(compute) for x in (query_SBND, key_TBGD, value_TBGD))
    groups = query.size(1) != key.size(1)
    if mask is not None:
        # A row without any allowed key would be 0/0: let it see everything, the caller zeroes or ignores it.
        mask = mask | ~mask.any(dim=-1, keepdim=True)
        if groups and query.is_cuda:
            # CUDA's kernel for masks wants a key for each head; without, torch would keep all scores.
            key, value = (x.repeat_interleave(query.size(1) // x.size(1), dim=1) for x in (key, value))
            groups = False
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=groups
    )
    return out.permute(2, 0, 1, 3).flatten(2).to(dtype)


class FusedAttentionCore(MegatronModule):
    """The attention core for megatron-core's SelfAttention on torch's scaled_dot_product_attention.

    The mask handed to it is True where attention is *allowed* (megatron-core's own unfused core uses the
    opposite sign; nothing of it is used here).
    """

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: AttnMaskType, **_: Any) -> None:
        super().__init__(config=config)
        self.causal = attn_mask_type == AttnMaskType.causal
        self.dropout = config.attention_dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any) -> Tensor:
        """Attend: causally when there is no mask and the layer is causal, else under the mask.

        Args:
            query: [S, B, N, D].
            key: [T, B, G, D].
            value: [T, B, G, D].
            attention_mask: True where attention is allowed, broadcastable to [B, N, S, T], or None.
        """
        dropout = self.dropout if self.training else 0.0
        causal = self.causal and attention_mask is None
        # Each tensor parallel rank has heads of its own, so it draws numbers of its own. Under sequence parallelism
        # the whole block already does.
        own = dropout > 0.0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own else nullcontext():
            return fused_attention(query, key, value, attention_mask, causal=causal, dropout=dropout)
