"""Retro on megatron-core: a GPT whose decoder reads neighbors. With retrieval off it is that GPT."""

# Dims: S, s, B, H, M, L, K, R, r as in attention.py; V padded vocabulary (of this rank where logits are not gathered).

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from retro.mcore import parallel
from retro.mcore.kernels import Kernels, choose
from retro.mcore.layers import (
    GPTModel,
    ModuleSpec,
    ProcessGroupCollection,
    TransformerBlockSubmodules,
    TransformerConfig,
    get_num_layers_to_build,
    get_transformer_layer_offset,
)
from retro.mcore.parallel import ONE_PROCESS, Layout, OneStage, StageLayers
from retro.model.attention import ChunkedCrossAttention
from retro.model.config import ModelShape
from retro.model.encoder import NeighborEncoder
from retro.model.masks import causal_mask, pack_masks, positions
from retro.model.positions import positions_named
from retro.model.prefix import PREFIX, PrefixInputs, PrefixLayers
from retro.model.real_tokens import RealTokens
from retro.model.specs import decoder_layer_spec, set_frequencies, transformer_config
from retro.model.transport import unpack
from retro.model.weight_names import ADDED_MODULE


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a model is laid out in memory; none of this changes what it computes."""

    bfloat16: bool = False
    """Weights and activations in bfloat16 (the optimizer keeps fp32 master weights)."""
    layout: Layout = ONE_PROCESS
    """Ranks that share it."""
    layers: str = "auto"
    """Whose layers: "local", "transformer_engine", or "auto"."""
    recompute: str = "none"
    """What is computed again in the backward pass: "none", "selective" (attention cores) or "full" (layers)."""


class RetroModel(GPTModel):
    """A megatron-core GPTModel with chunked cross-attention in some of its layers.

    Under pipeline parallelism one such model is a group of layers: the first has the embedding, the last the output
    layer, and what is between them arrives through `set_input_tensor`.
    """

    def __init__(self, shape: ModelShape, options: BuildOptions | None = None, vp_stage: int = 0) -> None:
        """Build the layers that belong to this rank.

        Args:
            shape: The whole model.
            options: Precision, ranks, recompute.
            vp_stage: Which of this stage's groups of layers; above 0 only where stages take turns.
        """
        options = options or BuildOptions()
        kernels = choose(options.layers, bfloat16=options.bfloat16)
        groups = ProcessGroupCollection.use_mpu_process_groups()
        model = shape.model
        kind = positions_named(model.positions)
        config = _config(shape, options, layers=model.layers, dropout=model.dropout, decoder=True)
        place = parallel.place(vp_stage)
        super().__init__(
            config=config,
            transformer_layer_spec=TransformerBlockSubmodules(
                layer_specs=_layer_specs(shape, options, kernels, groups, place, config), layer_norm=kernels.norm
            ),
            vocab_size=shape.padded_vocabulary,
            max_sequence_length=shape.position_rows,
            pre_process=place.first,
            post_process=place.last,
            share_embeddings_and_output_weights=model.tied_embeddings,
            position_embedding_type="rope"
            if kind.rotary
            else "learned_absolute"
            if model.positions == "learned"
            else "none",
            rotary_percent=model.rope_percent,
            rotary_base=model.rope_base,
            rope_scaling=model.rope_scaling > 1.0,
            rope_scaling_factor=model.rope_scaling,
            pg_collection=groups,
            vp_stage=place.vp_stage,
        )
        self.shape = shape
        self._received: Tensor | None = None
        self._real_tokens_only = _real_tokens_only(options.layout)
        if kind.rotary:
            set_frequencies(model, self.rotary_pos_emb)
        if place.first and model.positions == "learned":
            # megatron-core makes this table in fp32 whatever the precision, and the first norm refuses the mixture.
            self.embedding.position_embeddings.to(config.params_dtype)
        if place.first:
            self.embedding.register_forward_hook(_plain_strides)
        if not config.use_cpu_initialization:
            self.cuda(torch.cuda.current_device())

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Keep what arrived from the stage before; how it splits is known when the batch is."""
        self._received = input_tensor[0] if isinstance(input_tensor, list) else input_tensor

    def forward(
        self,
        tokens_BS: Tensor | None,
        neighbors_BLKR: Tensor | None = None,
        neighbor_mask_BLKR: Tensor | None = None,
        token_mask_BS: Tensor | None = None,
        labels_BS: Tensor | None = None,
        *,
        segments_BS: Tensor | None = None,
        gather_logits: bool = False,
        prefix: PrefixInputs | None = None,
    ) -> Tensor:
        """Logits, or the loss of each token when labels are given; on earlier stages, what travels to the next.

        Args:
            tokens_BS: [B, S] token ids; needed on the first stage.
            neighbors_BLKR: [B, S // M, K, R] token ids of each chunk's neighbors, needed on the first stage; None
                reads nothing.
            neighbor_mask_BLKR: True where a neighbor token is real, on every stage. A missing neighbor is all False.
            token_mask_BS: False for left padding, which is never attended; None when every token is real.
            labels_BS: [B, S] next tokens; needed on the last stage.
            segments_BS: [B, S] number of the sample that a token belongs to, 0 on padding, in place of `token_mask_BS`,
                on every stage: samples in one sequence see nothing of each other and count positions of their own.
                Neighbors of a chunk belong to the sample of its last token. None: one sample.
            gather_logits: Collect the vocabulary from all tensor parallel ranks.
            prefix: What its self-attentions read beside the tokens, see prefix.py; for a model that has a prefix.

        Returns:
            [B, S, V] logits or [B, S] cross-entropy; before the last stage [s + r K L, B, H], see transport.py.
        """
        if not self.shape.model.retrieval or (neighbor_mask_BLKR is not None and neighbor_mask_BLKR.size(1) == 0):
            neighbors_BLKR = neighbor_mask_BLKR = None
        if segments_BS is not None and token_mask_BS is not None:
            raise ValueError("segments say which tokens are real; a token mask beside them would say it twice")
        if self.pre_process:
            context = self._embedded(tokens_BS, neighbors_BLKR, neighbor_mask_BLKR)
        else:
            context = self._arrived(neighbor_mask_BLKR)
        mask = None
        if context is not None and neighbor_mask_BLKR is not None:
            mask = pack_masks(neighbor_mask_BLKR, token_mask_BS, self.shape.chunk_length, segments_BS)
        with self._reading(prefix):
            return super().forward(
                input_ids=tokens_BS,
                position_ids=None if tokens_BS is None else positions(tokens_BS, token_mask_BS, segments_BS),
                attention_mask=causal_mask(token_mask_BS, segments_BS),
                labels=labels_BS,
                extra_block_kwargs={"context": context, "context_mask": mask},
                runtime_gather_output=gather_logits or None,
            )

    def _reading(self, prefix: PrefixInputs | None) -> AbstractContextManager[None]:
        if prefix is None:
            return nullcontext()
        layers = getattr(self, f"{ADDED_MODULE}{PREFIX}", None)
        if not isinstance(layers, PrefixLayers):
            raise ValueError("the model has nothing that reads a prefix: add one, see retro/model/prefix.py")
        return layers.reading(prefix)

    def _embedded(
        self, tokens_BS: Tensor | None, neighbors_BLKR: Tensor | None, mask_BLKR: Tensor | None
    ) -> Tensor | None:
        """[r, B L K, H] embedded neighbors, or [P, 1, H] their real tokens."""
        if tokens_BS is None:
            raise ValueError("the first stage needs tokens")
        if neighbors_BLKR is None:
            return None
        chunks = tokens_BS.size(1) // self.shape.chunk_length
        expected = (tokens_BS.size(0), chunks)
        if neighbors_BLKR.shape[:2] != expected or neighbors_BLKR.size(3) != self.shape.retrieved_length:
            needed = (*expected, "K", self.shape.retrieved_length)
            raise ValueError(f"neighbors have shape {tuple(neighbors_BLKR.shape)}, needed {needed}")
        if mask_BLKR is None or mask_BLKR.shape != neighbors_BLKR.shape:
            raise ValueError("neighbors need a mask of their own shape")
        if self._real_tokens_only:
            real = RealTokens.of(mask_BLKR.flatten(0, 2))
            ids_1P = real.chosen(neighbors_BLKR.flatten(0, 2).T)[None]
            return self.embedding(input_ids=ids_1P, position_ids=real.positions(ids_1P.device)[None])
        ids = neighbors_BLKR.flatten(0, 2)
        return self.embedding(input_ids=ids, position_ids=positions(ids, None))

    def _arrived(self, mask_BLKR: Tensor | None) -> Tensor | None:
        """Hand the decoder its [s, B, H] states; what is left are the [r, B L K, H] neighbors."""
        if self._received is None:
            raise ValueError("a later stage needs what the stage before it sends")
        ranks = self.config.tensor_model_parallel_size if self.config.sequence_parallel else 1
        neighbors = 0 if mask_BLKR is None else mask_BLKR.size(1) * mask_BLKR.size(2)
        hidden_states, context = unpack(self._received, neighbors, self.shape.retrieved_length // ranks)
        self._received = None
        super().set_input_tensor(hidden_states)
        return context


def _plain_strides(_module: nn.Module, _inputs: object, embedded_SBH: Tensor) -> Tensor:
    """The same states without a trace of their transposition.

    Of one sequence they have the stride of the batch from before, with which torch's matmul copies the first layer's
    weights for every token: 2,048 tokens of width 576 took 5 s in place of 0.04.
    """
    return embedded_SBH.flatten(0, 1).unflatten(0, embedded_SBH.shape[:2])


def _real_tokens_only(layout: Layout) -> bool:
    """Whether the padding of neighbors is left out of all but attention.

    How many tokens are real differs from batch to batch: it is not where their number has to be agreed upon, between
    stages of a pipeline or ranks that share out the tokens.
    """
    return layout.pipeline == 1 and not layout.sequence


def build_stage(shape: ModelShape, options: BuildOptions) -> list[RetroModel]:
    """This rank's groups of layers, in order: one, or several where stages take turns."""
    return [RetroModel(shape, options, number) for number in range(options.layout.virtual_pipeline)]


def _config(
    shape: ModelShape, options: BuildOptions, *, layers: int, dropout: float, decoder: bool, init_std: float = 0.0
) -> TransformerConfig:
    return transformer_config(
        shape.model,
        layers=layers,
        dropout=dropout,
        bfloat16=options.bfloat16,
        layout=options.layout,
        recompute=options.recompute,
        decoder=decoder,
        init_std=init_std,
    )


def _layer_specs(
    shape: ModelShape,
    options: BuildOptions,
    kernels: Kernels,
    groups: ProcessGroupCollection,
    place: StageLayers,
    config: TransformerConfig,
) -> list[ModuleSpec]:
    """Specs of the layers that belong here, out of all layers of the decoder."""
    before = get_transformer_layer_offset(config, place.vp_stage, place.stage)
    here = get_num_layers_to_build(config, place.vp_stage, place.stage)
    numbers = range(before + 1, before + here + 1)
    hands_on = not place.last
    return [
        decoder_layer_spec(
            kernels,
            _cross_attention(shape, options, kernels, groups, number),
            qk_norm=shape.model.qk_norm,
            ends_stage=hands_on and number == numbers[-1],
        )
        for number in numbers
    ]


def _cross_attention(
    shape: ModelShape, options: BuildOptions, kernels: Kernels, groups: ProcessGroupCollection, number: int
) -> ModuleSpec | None:
    """Cross-attention of decoder layer `number`; None in a layer without."""
    reading = shape.model.cross_attention_layers
    if number not in reading:
        return None
    real_tokens_only = _real_tokens_only(options.layout)
    params: dict[str, Any] = {"kernels": kernels, "shape": shape, "real_tokens_only": real_tokens_only}
    if number == reading[0]:
        # Its layers are within one decoder layer: on one stage, and recomputed with that layer if layers are.
        recompute = "selective" if options.recompute == "selective" else "none"
        layout = OneStage(tensor=options.layout.tensor, sequence=options.layout.sequence)
        options = replace(options, layout=layout, recompute=recompute)
        layers, dropout = shape.model.encoder_layers, shape.model.encoder_dropout
        # A stack without layers is not a stack for megatron-core; only its widths are used then.
        layers, init_std = max(layers, 1), shape.model.retrieval_init_std
        config = _config(shape, options, layers=layers, dropout=dropout, decoder=False, init_std=init_std)
        params["encoder"] = NeighborEncoder(config, kernels, shape, groups)
    return ModuleSpec(module=ChunkedCrossAttention, params=params)
