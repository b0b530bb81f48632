"""Penalties on what an encoder gives: a term of the loss beside the answer's, by name, with a weight.

A penalty is a function of the encoded documents of a micro batch and of the batch itself, and gives one number:

    loss = answer loss + sum over penalties of weight x penalty

The two that are here keep a label of the documents or questions, such as the group that a text speaks of, from being
read off the pooled states. With x the pooled states of N rows (the mean over a row's tokens), less their mean, y their
groups as C columns of 0 and 1, less their mean, and m_g the mean of group g:

    group_means  mean over pairs of groups of |m_g - m_h|^2
    group_probe  tr(y'x (x'x + r I)^-1 x'y) / tr(y'y),  r = 0.01 tr(x'x) / E

`group_means` is lowered by making groups alike, and by making all states smaller. `group_probe` is the share of the
labels' variance that the best linear reader explains, found by ridge regression: from 0 to 1 and the same at every
scale, an adversary in closed form. It costs E^3, and says something only where a micro batch has more labelled rows
than a state has values: through fewer, a line fits any labels.

Where the means of all groups agree, no linear reader of the states does better than a constant (Belrose et al. 2023,
arXiv:2306.03819, section 3); what is not linear may still be read. A further penalty is a function that another package
offers as an entry point, or

    PENALTIES.register("spread")(lambda encoded, batch: encoded.pooled().var(dim=0).sum())
"""

# Dims in this file. N rows: documents of a micro batch   n tokens of a document   E width of a state   C groups

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from retro.common.errors import ConfigError
from retro.common.registry import Registry

if TYPE_CHECKING:
    from retro.qa.question import Question
    from retro.recipes.dynamic_prefix.joint.config import PenaltyConfig

RIDGE = 0.01
"""Of `group_probe`, times the mean variance of a state's values: it bounds the inverse, and shows in R^2 as about that
share of what a direction of usual variance could explain."""

UNKNOWN = -1
"""The group of a row that has no label; it counts in none."""


@dataclass(frozen=True, kw_only=True)
class EncodedDocuments:
    """What the encoder gave for the documents of a micro batch."""

    states_nNE: Tensor
    """[n, N, E] states as the projections read them."""
    real_Nn: Tensor
    """[N, n] True where a state is of a token."""
    groups_N: Tensor
    """[N] number of each row's group, -1 where it has no label."""

    def pooled(self) -> Tensor:
        """[N, E] float32 mean over each row's tokens; 0 for a row without any."""
        weights_nN1 = self.real_Nn.T[..., None]
        sums_NE = torch.where(weights_nN1, self.states_nNE.float(), 0.0).sum(dim=0)
        pooled_NE: Tensor = sums_NE / weights_nN1.sum(dim=0).clamp(min=1)
        return pooled_NE

    def known(self) -> Tensor:
        """[N] True for a row with a label and at least one token."""
        known_N: Tensor = (self.groups_N >= 0) & self.real_Nn.any(dim=1)
        return known_N


Penalty: TypeAlias = Callable[[EncodedDocuments, Any], Tensor]
"""From the encoded documents of a micro batch, and the micro batch, to one number, differentiable in the states."""


def group_means(encoded: EncodedDocuments, batch: Any = None) -> Tensor:
    """Mean over pairs of groups of the squared distance of their mean states; 0 where fewer than two are there."""
    means = _means(encoded)
    distances = [(one - other).square().sum() for one, other in combinations(means, 2)]
    return torch.stack(distances).mean() if distances else _nothing(encoded)


def group_probe(encoded: EncodedDocuments, batch: Any = None) -> Tensor:
    """Share of the groups' variance that a linear reader of the states explains, 0 to 1; 0 where fewer than two are
    there, or where all states are alike."""
    known_N = encoded.known()
    groups_N = encoded.groups_N[known_N].unique(return_inverse=True)[1]
    if not len(groups_N) or not groups_N.any():
        return _nothing(encoded)
    rows_NE = _centred(encoded.pooled()[known_N])
    labels_NC = _centred(functional.one_hot(groups_N).float())
    variance = rows_NE.square().sum()
    # Rows that are all alike say nothing: 0, not 0 / 0.
    ridge = RIDGE * variance / rows_NE.size(1) + torch.finfo(torch.float32).tiny ** 0.5
    gram_EE = rows_NE.T @ rows_NE + ridge * torch.eye(rows_NE.size(1), device=rows_NE.device)
    cross_EC = rows_NE.T @ labels_NC
    explained: Tensor = (cross_EC * torch.linalg.solve(gram_EE, cross_EC)).sum()
    return explained / labels_NC.square().sum()


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0)


def _means(encoded: EncodedDocuments) -> list[Tensor]:
    """[E] mean of each group that is there, by its number."""
    pooled_NE, known_N = encoded.pooled(), encoded.known()
    groups = encoded.groups_N[known_N].unique().tolist()
    return [pooled_NE[known_N & (encoded.groups_N == group)].mean(dim=0) for group in groups]


def _nothing(encoded: EncodedDocuments) -> Tensor:
    return encoded.states_nNE.new_zeros((), dtype=torch.float32)


def _accept(found: object) -> Penalty:
    if not callable(found):
        raise TypeError(f"is {found!r}, needs to be a function of encoded documents and a micro batch")
    return found


PENALTIES: Registry[Penalty] = Registry(
    "retro.penalties",
    "a penalty",
    {
        "group_means": "retro.recipes.dynamic_prefix.joint.penalties:group_means",
        "group_probe": "retro.recipes.dynamic_prefix.joint.penalties:group_probe",
    },
    _accept,
)
"""All penalties by name, for `penalties` of a recipe's settings."""


class WeightedPenalties:
    """The penalties that a recipe's settings name, as one number."""

    def __init__(self, settings: Sequence[PenaltyConfig]) -> None:
        """Look the penalties up.

        Raises:
            ConfigError: There is none of a name, or it does not load.
        """
        self._terms = [(one.weight, PENALTIES.find(one.name, "penalties.name")) for one in settings]

    def __bool__(self) -> bool:
        return bool(self._terms)

    def __call__(self, encoded: EncodedDocuments, batch: Any) -> Tensor:
        """Their sum, each times its weight: one float32 number.

        Raises:
            ValueError: A penalty of another package gives no single number.
        """
        total = _nothing(encoded)
        for weight, penalty in self._terms:
            value = penalty(encoded, batch)
            if value.dim():
                raise ValueError(f"a penalty gave {tuple(value.shape)} numbers, needed is one")
            total = total + weight * value.float()
        return total


def document_groups(questions: Sequence[Question], label: str, setting: str) -> tuple[dict[str, int], list[str]]:
    """The group of each document: the value of a label of the questions about it.

    Args:
        questions: With labels. One is about the documents that it names, or where it names none, about its first.
        label: Which label says the group.
        setting: What names it, for messages.

    Returns:
        The number of the group of each document, by its id, -1 where questions of several groups are about it; and the
        groups in the order of their numbers.

    Raises:
        ConfigError: No question has that label, or all have the same: nothing would be penalised.
    """
    labels = [dict(one.labels) for one in questions]
    values = sorted({row[label] for row in labels if label in row})
    if len(values) < 2:
        known = ", ".join(sorted({key for row in labels for key in row})[:8]) or "none"
        found = f"all that have it are {values[0]!r}" if values else f"none has it; labels are: {known}"
        raise ConfigError(setting, label, f"needs a label with at least two values: of {len(labels)} questions {found}")
    number_of = {value: number for number, value in enumerate(values)}
    groups: dict[str, int] = {}
    for question, row in zip(questions, labels, strict=True):
        about = question.document_ids or tuple(one.document_id for one in question.contexts[:1])
        for document in about if label in row else ():
            number = number_of[row[label]]
            groups[document] = number if groups.get(document, number) == number else UNKNOWN
    return groups, values


def group_of(groups: Mapping[str, int], document: str) -> int:
    """The group of a document, or of the document that a passage `name#3` was cut from; -1 for none."""
    if document in groups:
        return groups[document]
    name, mark, number = document.rpartition("#")
    return groups.get(name, UNKNOWN) if mark and number.isdecimal() else UNKNOWN
