"""Retro on megatron-core: a GPT whose decoder reads neighbors. With retrieval off it is that GPT."""

# Dims: S, B, H, M, L, K, R as in attention.py; V padded vocabulary (of this rank where logits are not gathered).

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retro.mcore.layers import (
    GPTModel,
    ModuleSpec,
    Norm,
    ProcessGroupCollection,
    TransformerBlockSubmodules,
    TransformerConfig,
)
from retro.model.attention import ChunkedCrossAttention
from retro.model.config import ModelShape
from retro.model.encoder import NeighborEncoder
from retro.model.masks import pack_masks
from retro.model.specs import decoder_layer_spec, transformer_config


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a model is laid out in memory; none of this changes what it computes."""

    bfloat16: bool = False
    """Weights and activations in bfloat16 (the optimizer keeps fp32 master weights)."""
    tensor_parallel: int = 1
    """Ranks that share every layer."""
    recompute: str = "none"
    """"full" recomputes each layer in the backward pass instead of keeping its activations."""


class RetroModel(GPTModel):
    """A megatron-core GPTModel with chunked cross-attention in some of its layers."""

    def __init__(self, shape: ModelShape, options: BuildOptions | None = None) -> None:
        options = options or BuildOptions()
        groups = ProcessGroupCollection.use_mpu_process_groups()
        model = shape.model
        config = _config(shape, options, layers=model.layers, dropout=model.dropout)
        super().__init__(
            config=config,
            transformer_layer_spec=TransformerBlockSubmodules(
                layer_specs=_layer_specs(shape, options, groups), layer_norm=Norm
            ),
            vocab_size=shape.padded_vocabulary,
            max_sequence_length=shape.position_rows,
            share_embeddings_and_output_weights=model.tied_embeddings,
            position_embedding_type="rope" if model.positions == "rope" else "learned_absolute",
            rotary_percent=model.rope_percent,
            rotary_base=model.rope_base,
            rope_scaling=model.rope_scaling > 1.0,
            rope_scaling_factor=model.rope_scaling,
            pg_collection=groups,
        )
        self.shape = shape
        if not config.use_cpu_initialization:
            self.cuda(torch.cuda.current_device())

    def forward(
        self,
        tokens_BS: Tensor,
        neighbors_BLKR: Tensor | None = None,
        neighbor_mask_BLKR: Tensor | None = None,
        token_mask_BS: Tensor | None = None,
        labels_BS: Tensor | None = None,
        *,
        gather_logits: bool = False,
    ) -> Tensor:
        """Logits, or the loss of each token when labels are given.

        Args:
            tokens_BS: [B, S] token ids.
            neighbors_BLKR: [B, S // M, K, R] token ids of each chunk's neighbors; None reads nothing.
            neighbor_mask_BLKR: True where a neighbor token is real. A missing neighbor is all False.
            token_mask_BS: False for left padding, which is never attended; None when every token is real.
            labels_BS: [B, S] next tokens.
            gather_logits: Collect the vocabulary from all tensor parallel ranks.

        Returns:
            [B, S, V] logits, or [B, S] cross-entropy.
        """
        context, mask = self._context(tokens_BS, neighbors_BLKR, neighbor_mask_BLKR, token_mask_BS)
        return super().forward(
            input_ids=tokens_BS,
            position_ids=_positions(tokens_BS, token_mask_BS),
            attention_mask=_causal_with_padding(token_mask_BS),
            labels=labels_BS,
            extra_block_kwargs={"context": context, "context_mask": mask},
            runtime_gather_output=gather_logits or None,
        )

    def _context(
        self,
        tokens_BS: Tensor,
        neighbors_BLKR: Tensor | None,
        mask_BLKR: Tensor | None,
        token_mask_BS: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        if neighbors_BLKR is None or not self.shape.model.retrieval or neighbors_BLKR.size(1) == 0:
            return None, None
        chunks = tokens_BS.size(1) // self.shape.chunk_length
        expected = (tokens_BS.size(0), chunks)
        if neighbors_BLKR.shape[:2] != expected or neighbors_BLKR.size(3) != self.shape.retrieved_length:
            needed = (*expected, "K", self.shape.retrieved_length)
            raise ValueError(f"neighbors have shape {tuple(neighbors_BLKR.shape)}, needed {needed}")
        if mask_BLKR is None or mask_BLKR.shape != neighbors_BLKR.shape:
            raise ValueError("neighbors need a mask of their own shape")
        ids = neighbors_BLKR.flatten(0, 2)
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        return self.embedding(input_ids=ids, position_ids=positions), pack_masks(
            mask_BLKR, token_mask_BS, self.shape.chunk_length
        )


def _config(shape: ModelShape, options: BuildOptions, *, layers: int, dropout: float) -> TransformerConfig:
    return transformer_config(
        shape.model,
        layers=layers,
        dropout=dropout,
        bfloat16=options.bfloat16,
        tensor_parallel=options.tensor_parallel,
        recompute=options.recompute,
    )


def _layer_specs(shape: ModelShape, options: BuildOptions, groups: ProcessGroupCollection) -> list[ModuleSpec]:
    reading = shape.model.cross_attention_layers
    specs = []
    for number in range(1, shape.model.layers + 1):
        if number not in reading:
            specs.append(decoder_layer_spec(None))
            continue
        params: dict[str, Any] = {"shape": shape}
        if number == reading[0]:
            plain = BuildOptions(bfloat16=options.bfloat16, tensor_parallel=options.tensor_parallel)
            layers, dropout = shape.model.encoder_layers, shape.model.encoder_dropout
            params["encoder"] = NeighborEncoder(_config(shape, plain, layers=layers, dropout=dropout), shape, groups)
        specs.append(decoder_layer_spec(ModuleSpec(module=ChunkedCrossAttention, params=params)))
    return specs


def _positions(tokens_BS: Tensor, token_mask_BS: Tensor | None) -> Tensor:
    """Positions counted from the first real token."""
    if token_mask_BS is None:
        return torch.arange(tokens_BS.size(1), device=tokens_BS.device).expand_as(tokens_BS)
    return (token_mask_BS.long().cumsum(dim=1) - 1).clamp(min=0)


def _causal_with_padding(token_mask_BS: Tensor | None) -> Tensor | None:
    """[B, 1, S, S] True where token s may see token t; None (plain causal, fused) when every token is real."""
    if token_mask_BS is None:
        return None
    length = token_mask_BS.size(1)
    causal = torch.ones(length, length, dtype=torch.bool, device=token_mask_BS.device).tril()
    return causal & token_mask_BS[:, None, None, :]
