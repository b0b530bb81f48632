"""A prefix of keys and values that every self-attention of a decoder reads beside its own tokens.

What the prefix is made of, documents or learned vectors, is a matter of its maker: here it is [n, B, E] states. In each
layer a projection gives keys and values of them, and before the output projection

    attended = causal_self_attention(rotated q, rotated k, v) + gate * softmax(q K / sqrt(D)) V

with a softmax of its own and a gate for each head that starts at zero, as the zero-init attention of LLaMA-Adapter
(Zhang et al. 2023, arXiv:2303.16199, section 3.2): at the start the model is the one without, bit for bit. Neither the
prefix's keys nor the queries that ask them are rotated, so what a prefix says does not depend on how far a token is
from it. Every token sees all of it; a sequence whose prefix is all masked reads exactly zero.

A `PrefixLayers` is a module beside the network (`training.train(modules=…)`), named `prefix`: its weights are those
that are trained while the network is frozen. Keys, values and gates are shared out over tensor parallel ranks by heads,
as the layer's own; the states are whole on every rank, and so are their gradients.
"""

# Dims in this file.
#   S tokens in the sequence   B sequences   H hidden size   E width of a prefix state   n states of a prefix
#   N heads and G query groups on this rank   D head width   X heads on this rank side by side, N D

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.mcore import parallel
from retro.mcore.cpu import device
from retro.mcore.layers import (
    ColumnParallelLinear,
    MegatronModule,
    TransformerConfig,
    checkpoint,
    copy_to_tensor_model_parallel_region,
    fused_attention,
    init_method_normal,
    require_norms,
    set_tensor_model_parallel_attributes,
    sharded_along,
)

PREFIX = "prefix"
"""The name of the module in `training.train(modules=…)`; in the model it is `added_prefix`."""

Projection = Literal["own", "frozen"]
"""`own`: a linear layer from states to keys and values in each layer. `frozen`: one from states to the hidden size for
all layers, whose norms and key and value projections, frozen, do the rest."""


@dataclass(frozen=True)
class PrefixInputs:
    """What a pass reads beside its tokens."""

    states_nBE: Tensor
    """The same on every tensor parallel rank."""
    real_Bn: Tensor
    """True where a state is one; False is padding, which nobody sees."""

    def __post_init__(self) -> None:
        if self.real_Bn.shape != (self.states_nBE.size(1), self.states_nBE.size(0)):
            shapes = f"{tuple(self.states_nBE.shape)} and {tuple(self.real_Bn.shape)}"
            raise ValueError(f"states [n, B, E] and their mask [B, n] do not fit: {shapes}")


def prefix_attention(
    query_SBND: Tensor, keys_nBGD: Tensor, values_nBGD: Tensor, real_Bn: Tensor, gate_N: Tensor
) -> Tensor:
    """What heads read in a prefix, times their gates.

    Args:
        query_SBND: [S, B, N, D] queries, after their norm and before they are rotated.
        keys_nBGD: [n, B, G, D] keys; N is a multiple of G.
        values_nBGD: [n, B, G, D] values.
        real_Bn: [B, n] True where the prefix has something.
        gate_N: [N] fp32 gates.

    Returns:
        [S, B, N D] in the queries' dtype; exactly zero for sequences without a real state. The softmax is fp32.
    """
    if keys_nBGD.size(0) == 0:
        return query_SBND.new_zeros(*query_SBND.shape[:2], query_SBND.shape[2:].numel())
    read_SBX = fused_attention(query_SBND, keys_nBGD, values_nBGD, real_Bn[:, None, None, :], causal=False)
    open_BN1 = (gate_N.float() * real_Bn.any(dim=1, keepdim=True))[..., None]
    read_SBND = read_SBX.unflatten(-1, query_SBND.shape[2:])
    return (read_SBND * open_BN1).to(query_SBND.dtype).flatten(2)


class LayerPrefix(MegatronModule):
    """One decoder layer's projection of the prefix to keys and values, and the gates of its heads.

    Attributes:
        learned_gate: [N] fp32, also where the model is bfloat16: a gate of 0.01 that moves by 1e-5 a step would not
            move at all with 8 bits.
    """

    def __init__(self, config: TransformerConfig, width: int, gate_init: float, projection: Projection) -> None:
        super().__init__(config=config)
        ranks = parallel.tensor_parallel_rank()[1]
        self.head_width = config.kv_channels or 0
        self.groups = (config.num_query_groups or 0) // ranks
        self.linear_kv: ColumnParallelLinear | None = None
        if projection == "own":
            # Keys and values of a group are side by side, so tensor parallel ranks cut between heads.
            self.linear_kv = ColumnParallelLinear(
                width,
                2 * (config.num_query_groups or 0) * self.head_width,
                config=config,
                # Of states of variance one, keys and values of variance one.
                init_method=init_method_normal(width**-0.5),
                bias=False,
                gather_output=False,
            )
        gate_N = torch.full((config.num_attention_heads // ranks,), gate_init, dtype=torch.float32, device=device())
        self.learned_gate = nn.Parameter(gate_N)
        set_tensor_model_parallel_attributes(self.learned_gate, True, 0, 1)
        self.attention: Callable[[], Any] | None = None
        """The decoder layer whose frozen projections are used."""

    @property
    def gate(self) -> Tensor:
        """[N] fp32 gates of this rank's heads."""
        return self.learned_gate

    def keys_values(self, states_nBE: Tensor) -> tuple[Tensor, Tensor]:
        """[n, B, G, D] keys and values of the groups on this rank, of [n, B, E] states; with frozen projections E is
        the hidden size."""
        if self.linear_kv is not None:
            mixed, _ = self.linear_kv(states_nBE)
            key, value = mixed.unflatten(-1, (self.groups, 2 * self.head_width)).chunk(2, dim=-1)
            return key, value
        if self.attention is None:
            raise ValueError("frozen projections are those of a decoder layer: attach the prefix to its model first")
        return _frozen_keys_values(self.attention(), states_nBE)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LayerPrefix:
        """As of any module, but the gate stays in fp32, with all its digits."""
        before = self.learned_gate.detach().clone()
        super()._apply(fn, recurse)
        if self.learned_gate.dtype != torch.float32:
            self.learned_gate.data = before.to(self.learned_gate.device)
        return self

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As of any module, which takes what it does not know for whole on every rank: gates are shared out."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        own = sharded_along("learned_gate", self.learned_gate, 0, prefix, sharded_offsets, metadata)
        return state | own


class PrefixLayers(MegatronModule):
    """The prefix's part in each decoder layer that reads it; children are named by the layer, counted from 0."""

    def __init__(
        self,
        config: TransformerConfig,
        width: int,
        layers: Sequence[int] | None = None,
        gate_init: float = 0.0,
        projection: Projection = "own",
    ) -> None:
        """Nothing reads it before `attach`.

        Args:
            config: Of the decoder.
            width: E, of a state.
            layers: Decoder layers that read, counted from 0; None: all.
            gate_init: What gates start at; 0: the model starts as it is without.
            projection: How states become keys and values.
        """
        # States are whole on every rank, whatever the decoder's tokens are.
        config = copy.copy(config)
        config.sequence_parallel = False
        super().__init__(config=config)
        self.width = width
        self.numbers = tuple(range(config.num_layers)) if layers is None else tuple(sorted(layers))
        self.to_hidden: nn.Linear | None = None
        if projection == "frozen":
            hidden = config.hidden_size
            self.to_hidden = nn.Linear(width, hidden, bias=False, dtype=config.params_dtype, device=device())
        for number in self.numbers:
            self.add_module(str(number), LayerPrefix(config, width, gate_init, projection))
        self._pass: PrefixInputs | None = None

    def layer(self, number: int) -> LayerPrefix | None:
        """What layer `number`, counted from 0, has; None where it does not read the prefix."""
        found = self._modules.get(str(number))
        return found if isinstance(found, LayerPrefix) else None

    def projected(self, states_nBE: Tensor) -> Tensor:
        """What layers make keys and values of: the states, or with frozen projections [n, B, H]."""
        return states_nBE if self.to_hidden is None else self.to_hidden(states_nBE)

    def keys_values(self, states_nBE: Tensor) -> Tensor:
        """[layers, 2, B, G, n, D] keys and values of all layers that read, of the groups on this rank."""
        states = self.projected(states_nBE)
        parts = [torch.stack(self._of(number).keys_values(states)) for number in self.numbers]
        return torch.stack(parts).permute(0, 1, 3, 4, 2, 5)

    @property
    def gates(self) -> Tensor:
        """[layers, N] fp32 gates of this rank's heads in the layers that read."""
        return torch.stack([self._of(number).gate for number in self.numbers])

    def _of(self, number: int) -> LayerPrefix:
        found = self.layer(number)
        if found is None:
            raise ValueError(f"layer {number} reads no prefix; these do: {self.numbers}")
        return found

    @contextmanager
    def reading(self, inputs: PrefixInputs) -> Iterator[None]:
        """Within, a pass reads this prefix."""
        self._pass = PrefixInputs(self.projected(inputs.states_nBE), inputs.real_Bn)
        try:
            yield
        finally:
            self._pass = None

    @property
    def read_now(self) -> PrefixInputs | None:
        """What the pass that is under way reads."""
        return self._pass


def attach(model: Any, prefix: PrefixLayers) -> PrefixLayers:
    """Have the self-attentions of a model's decoder read the prefix in the passes that bring one.

    Hooks stand at the two places of megatron-core's self-attention that matter: behind the query norm, before queries
    are rotated, and before the output projection. A model to which nothing is attached has none of them.

    Args:
        model: A `RetroModel`, whole.
        prefix: Built of the model's config.

    Returns:
        The prefix.

    Raises:
        ValueError: It is for layers that the model does not have.
    """
    layers = {layer.layer_number - 1: layer for layer in model.decoder.layers}
    lacking = [number for number in prefix.numbers if number not in layers]
    if lacking:
        raise ValueError(f"the prefix is for layers {prefix.numbers}, of which the model lacks {lacking}")
    for number in prefix.numbers:
        part, decoder_layer = prefix._of(number), layers[number]
        # Not a child: its weights belong to the network.
        part.attention = partial(_itself, decoder_layer)
        require_norms(decoder_layer.self_attention)
        _hook(decoder_layer.self_attention, prefix, part)
    return prefix


def _itself(layer: Any) -> Any:
    return layer


def _hook(attention: Any, prefix: PrefixLayers, part: LayerPrefix) -> None:
    read: list[Tensor] = []

    def ask(_module: nn.Module, _inputs: Any, query_SBND: Tensor) -> None:
        read.clear()
        if prefix.read_now is not None:
            read.append(_read(part, prefix.read_now, query_SBND))

    def add(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (inputs[0] + read.pop(), *inputs[1:]) if read else None

    attention.q_layernorm.register_forward_hook(ask)
    attention.linear_proj.register_forward_pre_hook(add)


def _read(part: LayerPrefix, inputs: PrefixInputs, query_SBND: Tensor) -> Tensor:
    """[S, B, X], computed again in the backward pass under selective recompute."""
    keys, values = part.keys_values(inputs.states_nBE)
    given = (query_SBND, keys, values, inputs.real_Bn, part.gate)
    if part.training and part.config.recompute_granularity == "selective":
        found: Tensor = checkpoint(prefix_attention, False, *given)
        return found
    return prefix_attention(*given)


def _frozen_keys_values(layer: Any, states_nBH: Tensor) -> tuple[Tensor, Tensor]:
    """[n, B, G, D] keys and values, by the layer's own norm and its rows of keys and values."""
    attention = layer.self_attention
    groups, width = attention.num_query_groups_per_partition, attention.hidden_size_per_attention_head
    normed_nBH = copy_to_tensor_model_parallel_region(layer.input_layernorm(states_nBH))

    def rows(mixed: Tensor) -> Tensor:
        """Of a group stand the rows of its queries, then of its key, then of its value."""
        return mixed.unflatten(0, (groups, -1, width))[:, -2:].flatten(0, 2)

    linear = attention.linear_qkv
    bias = None if linear.bias is None else rows(linear.bias)
    mixed = functional.linear(normed_nBH, rows(linear.weight), bias).unflatten(-1, (groups, 2, width))
    return attention.k_layernorm(mixed[..., 0, :]), mixed[..., 1, :]
