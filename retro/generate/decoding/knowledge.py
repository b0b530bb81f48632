"""Documents as keys and values, which all tokens of a row attend to in each decoder layer, wherever these stand.

Rows with the same documents attend to them together, and these are in memory once. Rows that decode one token each,
all with documents of their own, are a batch: their documents are copied side by side, the shorter ones masked, when the
batch first decodes, and the copy serves until its rows change. What that would take too much memory for is read row by
row. Rows without documents are left as they are, to the bit.
"""

# Dims in this file.
#   P packed tokens   S of them in a group, for each of   B rows   N heads and G query groups on this rank
#   D head width   n vectors of documents   X heads on this rank side by side, N D

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro.generate.request import Knowledge
from retro.model.model import RetroModel
from retro.model.prefix import PREFIX, LayerPrefix, PrefixLayers, prefix_attention
from retro.model.weight_names import ADDED_MODULE

_COPIED_BYTES = 2**27
"""Most memory for documents side by side: what is larger takes longer to read than a call for each row costs."""


@dataclass(frozen=True)
class KnowledgeGroup:
    """The packed tokens that attend to the same documents."""

    knowledge: Knowledge
    places: tuple[int, ...]
    """Of the tokens, in order."""


def knowledge_groups(spans: Iterable[tuple[Knowledge | None, int, int]]) -> tuple[KnowledgeGroup, ...]:
    """Which of the packed tokens attend to which documents.

    Args:
        spans: Of each row its documents, the place of its first token, and how many tokens it has; in order of places.
    """
    found: dict[Knowledge, list[int]] = {}
    for knowledge, first, count in spans:
        if knowledge is not None:
            found.setdefault(knowledge, []).extend(range(first, first + count))
    return tuple(KnowledgeGroup(one, tuple(places)) for one, places in found.items())


@dataclass(frozen=True)
class KnowledgeCall:
    """One call of attention to documents, in every layer."""

    tokens: slice | Tensor
    """Places of S B packed tokens."""
    keys_values: Tensor
    """[layers, 2, B, G, n, D]."""
    real_Bn: Tensor
    """False where a row has fewer vectors than another."""

    @classmethod
    def of_group(cls, group: KnowledgeGroup) -> KnowledgeCall:
        """Tokens with the same documents."""
        kept = group.knowledge.keys_values
        real_1n = torch.ones(1, kept.size(3), dtype=torch.bool, device=kept.device)
        return cls(_indices(group.places, kept.device), kept[:, :, None], real_1n)


class KnowledgeCalls:
    """Plans the calls of one decoder; keeps the documents that it last copied side by side."""

    def __init__(self) -> None:
        self._copied: tuple[tuple[Knowledge, ...], Tensor, Tensor] | None = None

    def plan(self, groups: Sequence[KnowledgeGroup]) -> list[KnowledgeCall]:
        """The calls that serve all groups."""
        singles = [one for one in groups if len(one.places) == 1]
        if len(singles) < 2 or _copy_bytes(singles) > _COPIED_BYTES:
            self._copied, singles = None, []
        calls = [KnowledgeCall.of_group(one) for one in groups if not singles or len(one.places) > 1]
        return [*calls, self._side_by_side(singles)] if singles else calls

    @property
    def bytes(self) -> int:
        """Memory of the copies."""
        return 0 if self._copied is None else self._copied[1].nbytes

    def _side_by_side(self, groups: Sequence[KnowledgeGroup]) -> KnowledgeCall:
        wanted = tuple(one.knowledge for one in groups)
        if self._copied is None or self._copied[0] != wanted:
            self._copied = (wanted, *_copies([one.keys_values for one in wanted]))
        _, keys_values, real_Bn = self._copied
        return KnowledgeCall(_indices([one.places[0] for one in groups], real_Bn.device), keys_values, real_Bn)


def _copy_bytes(groups: Sequence[KnowledgeGroup]) -> int:
    longest = max(one.knowledge.vectors for one in groups)
    return sum(one.knowledge.keys_values.nbytes // one.knowledge.vectors * longest for one in groups)


def _copies(kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[layers, 2, B, G, n, D] documents side by side, and [B, n] which vectors are real."""
    first, lengths = kept[0], [one.size(3) for one in kept]
    layers, two, groups, _, width = first.shape
    keys_values = first.new_zeros(layers, two, len(kept), groups, max(lengths), width)
    for row, one in enumerate(kept):
        keys_values[:, :, row, :, : one.size(3)] = one
    lengths_B1 = torch.tensor(lengths, device=first.device)[:, None]
    return keys_values, torch.arange(max(lengths), device=first.device) < lengths_B1


def _indices(places: Sequence[int], device: torch.device) -> slice | Tensor:
    if places[-1] - places[0] == len(places) - 1 and list(places) == sorted(places):
        return slice(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)


@dataclass(frozen=True)
class KnowledgeReader:
    """One decoder layer's way of reading documents."""

    number: int
    """Its place among the layers that do."""
    part: LayerPrefix
    """With the gate of each head."""

    def add(self, attended_P1X: Tensor, query_PND: Tensor, calls: Sequence[KnowledgeCall]) -> None:
        """Add to the output of self-attention what the tokens' documents give.

        Args:
            attended_P1X: Changed in place.
            query_PND: Before their rotation: what documents say does not depend on where a token stands.
            calls: Which tokens attend to which documents.
        """
        for one in calls:
            keys, values = (kept_BGnD.permute(2, 0, 1, 3) for kept_BGnD in one.keys_values[self.number])
            query_SBND = query_PND[one.tokens].unflatten(0, (-1, keys.size(1)))
            added_SBX = prefix_attention(query_SBND, keys, values, one.real_Bn, self.part.gate)
            attended_P1X[one.tokens] += added_SBX.flatten(0, 1)[:, None].to(attended_P1X.dtype)


def knowledge_readers(model: RetroModel) -> list[KnowledgeReader | None]:
    """For each decoder layer of a model how it reads documents; None where it reads none."""
    prefix = getattr(model, f"{ADDED_MODULE}{PREFIX}", None)
    found: list[KnowledgeReader | None] = []
    for layer in model.decoder.layers:
        part = prefix.layer(layer.layer_number - 1) if isinstance(prefix, PrefixLayers) else None
        found.append(None if part is None else KnowledgeReader(sum(one is not None for one in found), part))
    return found
