"""From a model config to megatron-core's transformer config and layer specs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from retro.mcore.cpu import on_cpu
from retro.mcore.kernels import Kernels
from retro.mcore.layers import (
    MLP,
    AttnMaskType,
    IdentityFuncOp,
    IdentityOp,
    MLPSubmodules,
    ModuleSpec,
    ProcessGroupCollection,
    RotaryEmbedding,
    SelfAttention,
    SelfAttentionSubmodules,
    TransformerConfig,
    TransformerLayer,
    TransformerLayerSubmodules,
    get_bias_dropout_add,
)
from retro.mcore.parallel import Layout
from retro.model.config import ModelConfig
from retro.model.positions import positions_named
from retro.model.transport import LastLayerOfStage


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
    "squared_relu": _squared_relu,
    "swiglu": functional.silu,  # megatron-core multiplies the other half
}


def transformer_config(
    model: ModelConfig,
    *,
    layers: int,
    dropout: float,
    bfloat16: bool,
    layout: Layout,
    recompute: str = "none",
    decoder: bool = True,
    init_std: float = 0.0,
) -> TransformerConfig:
    """megatron-core's config for a stack of `layers` layers of this model's width.

    Args:
        model: The network.
        layers: Layers of the stack.
        dropout: On hidden states and attention weights.
        bfloat16: Precision.
        layout: Ranks that share the stack.
        recompute: What the backward pass computes again.
        decoder: Whether this is the decoder, some of whose layers may not rotate; or the encoder.
        init_std: Standard deviation of its initial weights; 0: the model's.
    """
    skips = decoder and positions_named(model.positions).rotary and model.rope_skip_interval
    return TransformerConfig(
        num_layers=layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.heads,
        num_query_groups=model.query_groups,
        ffn_hidden_size=model.ffn_hidden_size,
        kv_channels=model.head_width,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        normalization=model.normalization,
        layernorm_zero_centered_gamma=model.zero_centered_norm,
        layernorm_epsilon=model.norm_epsilon,
        add_bias_linear=model.bias,
        add_qkv_bias=model.qkv_bias,
        no_rope_freq=[int(not model.rotates(number)) for number in range(1, layers + 1)] if skips else None,
        qk_layernorm=model.qk_norm,
        gated_linear_unit=model.activation == "swiglu",
        activation_func=_ACTIVATIONS[model.activation],
        init_method_std=init_std or model.init_std,
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.sequence,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        pipeline_model_parallel_layout=_layer_layout(layout),
        # Sent asynchronously, an output must outlive its sending: CUDA's streams see to that, gloo does not.
        deallocate_pipeline_outputs=layout.virtual_pipeline == 1 or not on_cpu(),
        # Stages that take turns send both ways at once; batched, two stages would take one's tensors for the other's.
        overlap_p2p_comm=layout.virtual_pipeline > 1,
        batch_p2p_comm=layout.virtual_pipeline == 1,
        bf16=bfloat16,
        params_dtype=torch.bfloat16 if bfloat16 else torch.float32,
        pipeline_dtype=torch.bfloat16 if bfloat16 else torch.float32,
        use_cpu_initialization=on_cpu(),
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        apply_rope_fusion=False,
        recompute_granularity=None if recompute == "none" else recompute,
        recompute_modules=["core_attn", "mlp"] if recompute == "selective" else None,
        recompute_method="uniform" if recompute == "full" else None,
        recompute_num_layers=1 if recompute == "full" else None,
    )


def rotary_positions(model: ModelConfig, config: TransformerConfig, groups: ProcessGroupCollection) -> RotaryEmbedding:
    """Rotary angles for the attentions that megatron-core's GPT does not rotate itself, with its frequencies."""
    made = RotaryEmbedding(
        kv_channels=model.head_width,
        rotary_percent=model.rope_percent,
        rotary_base=model.rope_base,
        rope_scaling=model.rope_scaling > 1.0,
        rope_scaling_factor=model.rope_scaling,
        use_cpu_initialization=config.use_cpu_initialization,
        cp_group=groups.cp,
    )
    set_frequencies(model, made)
    return made


def set_frequencies(model: ModelConfig, rotary: RotaryEmbedding) -> None:
    """Give megatron-core's rotary embedding the frequencies of a model's kind of positions, where it has its own."""
    frequencies = positions_named(model.positions).frequencies
    if frequencies is not None:
        found = torch.tensor(frequencies(model), dtype=torch.float32)
        if found.shape != rotary.inv_freq.shape:
            problem = f"gives {len(found)} frequencies, needed {len(rotary.inv_freq)}"
            raise ValueError(f"positions {model.positions!r}: {problem}")
        rotary.inv_freq = found.to(rotary.inv_freq.device)


def _layer_layout(layout: Layout) -> list[list[str]] | None:
    """What each group of layers holds, as megatron-core wants it; None deals the layers out evenly."""
    if not layout.stage_layers:
        return None
    groups = [["decoder"] * layers for layers in layout.stage_layers]
    groups[0].insert(0, "embedding")
    groups[-1].append("loss")
    return groups


def mlp_spec(kernels: Kernels) -> ModuleSpec:
    """megatron-core's feed-forward layer."""
    submodules = MLPSubmodules(linear_fc1=kernels.column_linear, linear_fc2=kernels.output_linear)
    return ModuleSpec(module=MLP, submodules=submodules)


def self_attention_spec(kernels: Kernels, mask_type: AttnMaskType, core: type, *, qk_norm: bool) -> ModuleSpec:
    """megatron-core's SelfAttention over a fused core."""
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": mask_type},
        submodules=SelfAttentionSubmodules(
            linear_qkv=kernels.column_linear,
            core_attention=core,
            linear_proj=kernels.row_linear,
            q_layernorm=kernels.norm if qk_norm else IdentityOp,
            k_layernorm=kernels.norm if qk_norm else IdentityOp,
        ),
    )


def decoder_layer_spec(
    kernels: Kernels, cross_attention: ModuleSpec | None, *, qk_norm: bool, ends_stage: bool = False
) -> ModuleSpec:
    """One decoder layer.

    Args:
        kernels: What it is built of.
        cross_attention: Reads neighbors between self-attention and feed-forward; None in a plain layer.
        qk_norm: Whether its self-attention norms queries and keys.
        ends_stage: Whether its output travels to another pipeline stage, the neighbors with it.
    """
    reads = cross_attention is not None
    return ModuleSpec(
        module=LastLayerOfStage if ends_stage else TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=kernels.norm,
            self_attention=self_attention_spec(kernels, AttnMaskType.causal, kernels.causal_core, qk_norm=qk_norm),
            self_attn_bda=get_bias_dropout_add,
            pre_cross_attn_layernorm=kernels.norm if reads else IdentityOp,
            cross_attention=cross_attention if reads else IdentityOp,
            cross_attn_bda=add_cross_attention if reads else IdentityFuncOp,
            pre_mlp_layernorm=kernels.norm,
            mlp=mlp_spec(kernels),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def add_cross_attention(training: bool, fused: bool) -> Callable[[dict[str, Tensor | None], Tensor, float], Tensor]:
    """The residual add after chunked cross-attention, in the form megatron-core's layer calls it.

    Nothing to read leaves the stream untouched, bit for bit. There is no fused variant.
    """

    def add(result: dict[str, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
        output = result["output"]
        if output is None:
            return residual
        return residual + functional.dropout(output, p=dropout, training=training)

    return add
