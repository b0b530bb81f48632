"""A stand-in for the package transformer_engine: what megatron-core's wrappers import and what our layers call.

In plain torch, for one process on a CPU. The constructors take what release 2.9 documents and nothing else, so a
wrong argument fails; what they compute is written again here, apart from our own layers. It shows the wiring: not
that Transformer Engine's kernels run, nor how fast they are.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

attention_calls: list[tuple[int, ...]] = []
"""Shapes of the queries that the stand-in's attention was given."""


class Base(nn.Module):
    """Has extra state, like every layer there, and would unpickle what a checkpoint gives it."""

    def get_extra_state(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        raise AssertionError("extra state of a checkpoint would be unpickled here")


class Linear(Base):
    def __init__(
        self, in_features: int, out_features: int, *, sequence_parallel: bool, fuse_wgrad_accumulation: bool,
        tp_group: Any, tp_size: int, get_rng_state_tracker: Any, init_method: Any, bias: bool, return_bias: bool,
        parallel_mode: str, params_dtype: torch.dtype, device: Any, rng_tracker_name: str | None,
    ) -> None:  # fmt: skip
        super().__init__()
        assert tp_size == 1
        assert parallel_mode in ("column", "row")
        self.return_bias = return_bias
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype, device=device))
        init_method(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=params_dtype, device=device)) if bias else None

    def forward(self, x: Tensor, is_first_microbatch: bool | None = None) -> Any:
        product = torch.einsum("...i,oi->...o", x, self.weight)
        if self.return_bias:
            return product, self.bias
        return product if self.bias is None else product + self.bias


class _Norm(Base):
    def __init__(
        self, normalized_shape: int, *, eps: float, sequence_parallel: bool, zero_centered_gamma: bool,
        params_dtype: torch.dtype, device: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.eps, self.offset = eps, float(zero_centered_gamma)
        start = torch.full((normalized_shape,), 1.0 - self.offset, dtype=params_dtype, device=device)
        self.weight = nn.Parameter(start)

    def scaled(self, x: Tensor, centered: Tensor) -> Tensor:
        spread = (centered.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return (centered * spread * (self.weight.float() + self.offset)).to(x.dtype)


class LayerNorm(_Norm):
    def __init__(self, normalized_shape: int, **settings: Any) -> None:
        super().__init__(normalized_shape, **settings)
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, x.float() - x.float().mean(dim=-1, keepdim=True)) + self.bias


class RMSNorm(_Norm):
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, x.float())


class DotProductAttention(Base):
    def __init__(
        self, num_attention_heads: int, kv_channels: int, *, num_gqa_groups: int, attention_dropout: float,
        attn_mask_type: str, sequence_parallel: bool, tp_size: int, get_rng_state_tracker: Any, tp_group: Any,
        layer_number: int, attention_type: str, softmax_scale: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups, self.dropout = num_gqa_groups, attention_dropout
        self.scale = softmax_scale or kv_channels**-0.5

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: None, *, attn_mask_type: str) -> Tensor:
        assert mask is None
        assert attn_mask_type == "causal"
        attention_calls.append(tuple(query.shape))
        repeats = query.size(2) // self.groups
        key, value = (x.float().repeat_interleave(repeats, dim=2) for x in (key, value))
        scores = torch.einsum("sbnd,tbnd->bnst", query.float(), key) * self.scale
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = functional.dropout(scores.masked_fill(future, -torch.inf).softmax(-1), self.dropout, self.training)
        return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2).to(query.dtype)


def install() -> None:
    """Put it where `import transformer_engine` finds it. Before megatron is imported."""
    layers = (Linear, LayerNorm, RMSNorm, DotProductAttention)
    unused = {name: type(name, (Base,), {}) for name in ("LayerNormLinear", "GroupedLinear")}
    contents: dict[str, dict[str, Any]] = {
        "": {"__version__": "2.9.0"},
        ".common": {},
        ".common.recipe": {"DelayedScaling": object},
        ".pytorch": {one.__name__: one for one in layers} | unused,
        ".pytorch.distributed": {"CudaRNGStatesTracker": object, "activation_recompute_forward": None},
        ".pytorch.fp8": {"FP8GlobalStateManager": object, "fp8_autocast": None, "fp8_model_init": None},
        ".pytorch.ops": {"Sequential": object, "FusibleOperation": object},
        ".pytorch.router": dict.fromkeys(
            ("fused_compute_score_for_moe_aux_loss", "fused_moe_aux_loss", "fused_topk_with_score_function")
        ),
        ".pytorch.tensor": {"QuantizedTensor": type("QuantizedTensor", (), {})},
    }
    for path, names in contents.items():
        module = ModuleType(f"transformer_engine{path}")
        vars(module).update(names)
        sys.modules[module.__name__] = module
        parent, _, name = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, module)
