"""Documents as keys and values, which all tokens of a row attend to in each decoder layer, wherever these stand.

Rows with the same documents attend to them together: they are in memory once, nothing is padded, and what a row gets
does not depend on the others of its batch. Rows without documents are left as they are, to the bit.
"""

# Dims in this file.
#   P packed tokens   S of them in a group   N heads and G query groups on this rank   D head width
#   n vectors of documents   X heads on this rank side by side, N D

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro.generate.request import Knowledge
from retro.model.model import RetroModel
from retro.model.prefix import PREFIX, LayerPrefix, PrefixLayers, prefix_attention
from retro.model.weight_names import ADDED_MODULE


@dataclass(frozen=True)
class KnowledgeGroup:
    """The packed tokens that attend to the same documents."""

    knowledge: Knowledge
    tokens: slice | Tensor
    """Their places."""
    real_1n: Tensor
    """All True: each group has its own documents, so none are padded."""


def knowledge_groups(
    spans: Iterable[tuple[Knowledge | None, int, int]], device: torch.device
) -> tuple[KnowledgeGroup, ...]:
    """Which of the packed tokens attend to which documents.

    Args:
        spans: Of each row its documents, the place of its first token, and how many tokens it has; in order of places.
        device: Where the tokens are.
    """
    found: dict[Knowledge, list[tuple[int, int]]] = {}
    for knowledge, first, count in spans:
        if knowledge is not None:
            found.setdefault(knowledge, []).append((first, first + count))
    return tuple(
        KnowledgeGroup(one, _places(mine, device), torch.ones(1, one.vectors, dtype=torch.bool, device=device))
        for one, mine in found.items()
    )


def _places(parts: Sequence[tuple[int, int]], device: torch.device) -> slice | Tensor:
    first, last = parts[0][0], parts[-1][1]
    if last - first == sum(end - start for start, end in parts):
        return slice(first, last)
    return torch.tensor([place for part in parts for place in range(*part)], device=device)


@dataclass(frozen=True)
class KnowledgeReader:
    """One decoder layer's way of reading documents."""

    number: int
    """Its place among the layers that do."""
    part: LayerPrefix
    """With the gate of each head."""

    def add(self, attended_P1X: Tensor, query_PND: Tensor, groups: Sequence[KnowledgeGroup]) -> None:
        """Add to the output of self-attention what the tokens' documents give.

        Args:
            attended_P1X: Changed in place.
            query_PND: Before their rotation: what documents say does not depend on where a token stands.
            groups: Which tokens attend to which documents.
        """
        for one in groups:
            keys_GnD, values_GnD = one.knowledge.keys_values[self.number]
            keys, values = (x.transpose(0, 1)[:, None] for x in (keys_GnD, values_GnD))
            added_S1X = prefix_attention(query_PND[one.tokens][:, None], keys, values, one.real_1n, self.part.gate)
            attended_P1X[one.tokens] += added_S1X.to(attended_P1X.dtype)


def knowledge_readers(model: RetroModel) -> list[KnowledgeReader | None]:
    """For each decoder layer of a model how it reads documents; None where it reads none."""
    prefix = getattr(model, f"{ADDED_MODULE}{PREFIX}", None)
    found: list[KnowledgeReader | None] = []
    for layer in model.decoder.layers:
        part = prefix.layer(layer.layer_number - 1) if isinstance(prefix, PrefixLayers) else None
        found.append(None if part is None else KnowledgeReader(sum(one is not None for one in found), part))
    return found
