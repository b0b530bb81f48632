"""Computes what NVIDIA's own Retro, corrected, gives for small random weights. Run by hand; the result is checked in.

megatron-core 0.15.3 is the last release with a Retro model. It cannot share an environment with the release that this
project builds on, so it gets its own (Python 3.11, about 1 GB), and so does this script:

    python3.11 -m venv /some/where/else
    /some/where/else/bin/pip install "torch==2.13.0" numpy einops packaging psutil safetensors
    /some/where/else/bin/pip install --no-deps megatron-core==0.15.3
    PYTHONPATH=. /some/where/else/bin/python tests/parity/make_fixtures.py

It builds 0.15.3's RetroModel from its own local layer spec, runs it on the CPU through this project's adapter, and
writes one file for each entry of VARIANTS into `tests/parity/fixtures`: weights under 0.15.3's names, tokens, neighbors
and logits. `test_upstream.py` then asks our model for the same logits, in every test run and without 0.15.3.

What is corrected, in classes of our own that take the place of 0.15.3's:

* no final norm: its block spec names none, and since release 0.8 none is built by default;
* encoder cross-attention: its residual is the normed tensor, where the stream as it was before the norm belongs.

The logits of the model as shipped, and with one of the two corrected, are recorded as well. Three things are changed
so that it runs at all, and change no value: the version check of Transformer Engine, which fails where that is
missing; LayerNorm-1p, which the local spec's norm refuses, comes from a norm of our own; fused kernels are off.

Both compute the same function only where 0.15.3 has no choice: no rotary positions in encoder and cross-attention, no
grouped queries, all neighbors present and full, cross-attention from layer 6 in every third layer, and a sequence that
is a multiple of the chunk length (0.15.3 aligns chunks at the end of a sequence and pads its first one).
"""

# Dims: B sequences, S tokens, L chunks, K neighbors, R tokens of a neighbor.

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from retro.mcore.cpu import apply_cpu_adapter

FIXTURES = Path(__file__).parent / "fixtures"
# Two layers read neighbors: 6, which holds the encoder, and 9.
LAYERS, HIDDEN, HEADS, FEED_FORWARD = 9, 16, 4, 32
CHUNK, CHUNKS, NEIGHBORS, BATCH, VOCABULARY = 4, 3, 2, 2, 48

VARIANTS: dict[str, dict[str, Any]] = {
    "instructretro": {
        "activation": "swiglu",
        "bias": False,
        "positions": "rope",
        "rope_percent": 0.5,
        "zero_centered_norm": True,
        "tied_embeddings": False,
        "encoder_layers": 2,
    },
    "learned_positions": {
        "activation": "gelu",
        "bias": True,
        "positions": "learned",
        "rope_percent": 1.0,
        "zero_centered_norm": False,
        "tied_embeddings": True,
        "encoder_layers": 2,
    },
    "rope_gelu": {
        "activation": "gelu",
        "bias": False,
        "positions": "rope",
        "rope_percent": 1.0,
        "zero_centered_norm": False,
        "tied_embeddings": False,
        "encoder_layers": 3,
    },
}
"""Settings by the names of this project's ModelConfig."""


class Norm(nn.Module):
    """A LayerNorm that can be zero-centered, built as 0.15.3 builds a norm."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.offset = 1.0 if config.layernorm_zero_centered_gamma else 0.0
        self.weight = nn.Parameter(torch.full((hidden_size,), 1.0 - self.offset))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Normed over the last dim."""
        return functional.layer_norm(x, x.shape[-1:], self.weight + self.offset, self.bias, self.eps)


class ResidualOnTheStream(nn.Module):
    """Adds what the encoder's cross-attention gives to the stream as it was before the norm.

    0.15.3 hands over one pair of output and bias for each neighbor, and expects neighbors to vary slowest.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.neighbors = config.retro_num_neighbors

    def forward(self, training: bool, fused: bool) -> Callable[..., Tensor]:
        """The function that 0.15.3's layer calls with outputs, residual and dropout."""

        def add(outputs: list[tuple[Tensor, Tensor | None, Tensor]], stream: Tensor, dropout: float) -> Tensor:
            of_neighbor = stream.unflatten(1, (-1, self.neighbors)).unbind(2)
            sums = [
                before + (output if bias is None else output + bias)
                for before, (output, bias, _) in zip(of_neighbor, outputs, strict=True)
            ]
            return torch.cat(sums, dim=1)

        return add


def build(settings: dict[str, Any], *, final_norm: bool, stream_residual: bool) -> Any:
    """0.15.3's RetroModel of these settings, with the corrections asked for."""
    from megatron.core.models.retro import config as upstream_config
    from megatron.core.models.retro.decoder_spec import get_retro_decoder_block_spec
    from megatron.core.models.retro.model import RetroModel

    upstream_config.is_te_min_version = lambda *_, **__: False
    swiglu = settings["activation"] == "swiglu"
    config = upstream_config.RetroConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        ffn_hidden_size=FEED_FORWARD,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        add_bias_linear=settings["bias"],
        gated_linear_unit=swiglu,
        activation_func=functional.silu if swiglu else functional.gelu,
        layernorm_zero_centered_gamma=settings["zero_centered_norm"],
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        retro_chunk_length=CHUNK,
        retro_num_neighbors=NEIGHBORS,
        retro_encoder_num_layers=settings["encoder_layers"],
        retro_encoder_hidden_dropout=0.0,
        retro_encoder_attention_dropout=0.0,
        retro_split_preprocessing="98,2,0",
    )
    block = get_retro_decoder_block_spec(config, use_transformer_engine=False)
    if final_norm:
        block.layer_norm = Norm
    _replace_parts(block, stream_residual)
    return RetroModel(
        config=config,
        transformer_layer_spec=block,
        vocab_size=VOCABULARY,
        max_sequence_length=CHUNK * CHUNKS,
        share_embeddings_and_output_weights=settings["tied_embeddings"],
        position_embedding_type="rope" if settings["positions"] == "rope" else "learned_absolute",
        rotary_percent=settings["rope_percent"],
    ).eval()


def _replace_parts(block: Any, stream_residual: bool) -> None:
    """Our norm everywhere, and our residual in the encoder when asked for."""
    for layer in block.layer_specs:
        parts = layer.submodules
        for name in ("input_layernorm", "pre_cross_attn_layernorm", "pre_mlp_layernorm"):
            part = getattr(parts, name)
            if getattr(part, "submodules", None) is not None and not isinstance(part, type):
                part.submodules = Norm  # the encoder's norm of each neighbor, which wraps one
            elif getattr(part, "__name__", "") != "IdentityOp":
                setattr(parts, name, Norm)
        attention = parts.cross_attention
        inner = getattr(attention, "params", {}).get("encoder_block_spec")
        if inner is not None:
            _replace_parts(inner, stream_residual)
        if stream_residual and getattr(attention, "module", type).__name__ == "RetroEncoderCrossAttention":
            parts.cross_attn_bda = _spec(ResidualOnTheStream)


def _spec(module: type) -> Any:
    from megatron.core.transformer import ModuleSpec

    return ModuleSpec(module=module)


def random_weights(model: Any, seed: int) -> dict[str, Tensor]:
    """Random values for every weight, norms and biases included, so that no term hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in model.named_parameters():
        noise = 0.3 * torch.randn(value.shape, generator=generator)
        weights[name] = noise + (value.detach() if "norm" in name else 0.0)
    return weights


def logits(model: Any, weights: dict[str, Tensor], tokens_BS: Tensor, neighbors_BLKR: Tensor) -> Tensor:
    """[B, S, vocabulary] from a model that may lack some of the weights (a final norm)."""
    missing, _ = model.load_state_dict(weights, strict=False)
    assert all(name.endswith("_extra_state") for name in missing), missing
    length = tokens_BS.size(1)
    ids = neighbors_BLKR.flatten(0, 2)
    hidden_later = torch.ones(length, length).triu(1).bool()[None, None]
    with torch.no_grad():
        result: Tensor = model(
            input_ids=tokens_BS,
            position_ids=torch.arange(length).expand_as(tokens_BS),
            attention_mask=hidden_later,
            context_input_ids=ids,
            context_position_ids=torch.arange(ids.size(1)).expand_as(ids),
            context_mask=None,
        )
    return result


def make(settings: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Everything that a fixture holds."""
    corrected = build(settings, final_norm=True, stream_residual=True)
    weights = random_weights(corrected, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    tokens_BS = torch.randint(0, VOCABULARY, (BATCH, CHUNK * CHUNKS), generator=generator)
    neighbors_BLKR = torch.randint(0, VOCABULARY, (BATCH, CHUNKS, NEIGHBORS, 2 * CHUNK), generator=generator)
    inputs = (weights, tokens_BS, neighbors_BLKR)
    only_norm = build(settings, final_norm=True, stream_residual=False)
    only_residual = build(settings, final_norm=False, stream_residual=True)
    as_shipped = build(settings, final_norm=False, stream_residual=False)
    return {f"weights.{name}": value for name, value in weights.items()} | {
        "tokens": tokens_BS,
        "neighbors": neighbors_BLKR,
        "logits.corrected": logits(corrected, *inputs),
        "logits.encoder_residual_as_shipped": logits(only_norm, *inputs),
        "logits.final_norm_as_shipped": logits(only_residual, *inputs),
        "logits.as_shipped": logits(as_shipped, *inputs),
    }


def main() -> None:
    """Write all fixtures."""
    apply_cpu_adapter()
    import megatron.core
    from megatron.core import parallel_state, tensor_parallel

    if megatron.core.__version__ != "0.15.3":
        sys.exit(f"megatron-core {megatron.core.__version__} is installed, needed 0.15.3: see this file's first lines")
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, world_size=1, rank=0)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    FIXTURES.mkdir(exist_ok=True)
    for seed, (name, settings) in enumerate(VARIANTS.items(), start=1):
        tensors = {key: value.contiguous() for key, value in make(settings, seed).items()}
        save_file(tensors, FIXTURES / f"{name}.safetensors")
    about = {
        "made with": {"megatron-core": megatron.core.__version__, "torch": torch.__version__, "device": "cpu"},
        "chunk_length": CHUNK,
        "vocabulary": VOCABULARY,
        "shape": {
            "layers": LAYERS,
            "hidden_size": HIDDEN,
            "heads": HEADS,
            "query_groups": HEADS,
            "ffn_hidden_size": FEED_FORWARD,
            "sequence_length": CHUNK * CHUNKS,
            "first_cross_attention": 6,
            "cross_attention_every": 3,
            "neighbors": NEIGHBORS,
            "encoder_rope": False,
            "cross_rope": False,
        },
        "variants": VARIANTS,
    }
    (FIXTURES / "variants.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
