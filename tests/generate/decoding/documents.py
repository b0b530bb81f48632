"""Documents as keys and values: tiny models that read them, and the plain torch that says what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retro.generate.request import Knowledge
from retro.model.model import RetroModel
from retro.model.prefix import PREFIX, PrefixInputs, PrefixLayers, attach
from retro.model.reference import ReferenceRetro
from retro.model.weight_names import ADDED_MODULE
from tests.generate.decoding.recompute import EventReference, Given, Recompute
from tests.model.tiny import tiny_model, tiny_shape

WIDTH = 6
"""Of a state, E."""


def reading_model(layers: Sequence[int] | None = None, gate: float = 0.7, **settings: Any) -> RetroModel:
    """A tiny model whose heads read documents, each with a gate of its own."""
    model = tiny_model(tiny_shape(**settings))
    prefix = PrefixLayers(model.config, WIDTH, layers, gate)
    with torch.no_grad():
        for place, number in enumerate(prefix.numbers):
            part = prefix.layer(number)
            assert part is not None
            part.learned_gate.add_(torch.linspace(-0.1, 0.2, len(part.learned_gate)) * (gate != 0.0) * (place + 1))
    model.add_module(f"{ADDED_MODULE}{PREFIX}", prefix)
    attach(model, prefix)
    return model.eval()


def prefix_of(model: RetroModel) -> PrefixLayers:
    found = getattr(model, f"{ADDED_MODULE}{PREFIX}")
    assert isinstance(found, PrefixLayers)
    return found


def states(vectors: int, seed: int = 0) -> Tensor:
    """[n, 1, E] states of documents."""
    return torch.randn(vectors, 1, WIDTH, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def knowledge(model: RetroModel, vectors: int, seed: int = 0) -> Knowledge:
    """Documents of so many vectors."""
    keys_values = prefix_of(model).keys_values(states(vectors, seed))[:, :, 0]
    return Knowledge(keys_values.contiguous(), f"{vectors} vectors of seed {seed}")


@torch.no_grad()
def training_logits(model: RetroModel, tokens: Sequence[int], vectors: int, seed: int = 0) -> Tensor:
    """[S, V] by the model's forward pass, as it is trained, with the same documents as `knowledge`."""
    inputs = PrefixInputs(states(vectors, seed), torch.ones(1, vectors, dtype=torch.bool))
    logits_BSV: Tensor = model(torch.tensor([list(tokens)]), gather_logits=True, prefix=inputs)
    return logits_BSV[0, :, : model.shape.vocabulary]


class ReadingReference(ReferenceRetro):
    """Plain torch whose self-attention reads documents: a loop over heads, without a mask or a batch."""

    def __init__(self, model: RetroModel) -> None:
        super().__init__(model.shape, {name: value.detach() for name, value in model.named_parameters()})
        self.prefix = prefix_of(model)
        self.read: Knowledge | None = None

    def _self_attention(self, layer: str, x_SH: Tensor, mask_SS: Tensor, positions: Any) -> Tensor:
        plain = super()._self_attention(layer, x_SH, mask_SS, positions)
        part = self.prefix.layer(int(layer.split(".")[2])) if layer.startswith("decoder.layers.") else None
        if self.read is None or part is None or ".encoder." in layer:
            return plain
        settings, name = self.model, layer + "self_attention."
        per_group, width = settings.heads // settings.query_groups, settings.head_width
        mixed = self._linear(name + "linear_qkv", x_SH).view(len(x_SH), settings.query_groups, per_group + 2, width)
        number = self.prefix.numbers.index(int(layer.split(".")[2]))
        heads = []
        for head in range(settings.heads):
            group = head // per_group
            query_SD = mixed[:, group, head % per_group]
            if settings.qk_norm:
                query_SD = self._norm(name + "q_layernorm", query_SD)
            keys_nD, values_nD = self.read.keys_values[number, :, group]
            weights_Sn = (query_SD @ keys_nD.T / width**0.5).softmax(-1)
            heads.append(part.gate[head] * (weights_Sn @ values_nD))
        # The output projection is linear, so what documents give passes it by itself; its bias is in `plain`.
        return plain + torch.cat(heads, -1).detach() @ self.weights[name + "linear_proj.weight"].T


class KnowledgeReference(EventReference):
    """The truth: every sequence computed again from its first token, with its documents."""

    def __init__(self, model: RetroModel) -> None:
        Recompute.__init__(self, model.shape)
        self.plain = self.reading = ReadingReference(model)
        self.known: dict[int, Knowledge | None] = {}

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        row = super().open(adapter)
        self.known[row] = knowledge
        return row

    def fork(self, row: int, count: int) -> list[int]:
        forks = super().fork(row, count)
        self.known |= dict.fromkeys(forks, self.known[row])
        return forks

    def logits(self, sequence: Given) -> Tensor:
        row = next(number for number, one in self._open.items() if one is sequence)
        self.reading.read = self.known[row]
        return super().logits(sequence)
