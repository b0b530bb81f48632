"""Losses as modules for the trainer of sentence-transformers: its own where it has them, ours where it has none.

Each keeps the spread of the last passages' embeddings in `spread`, by which a collapse is seen, and what else has to
survive a kill in `kept`.
"""

# Dims in this file. B questions of a batch   C candidates   D dimension   Q entries of the queue

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.losses import (
    CachedMultipleNegativesRankingLoss,
    DistillKLDivLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import Tensor, nn

from retro.recipes.dense_retriever.training.config import MocoConfig, VicregConfig
from retro.recipes.dense_retriever.training.losses.functions import (
    enqueue,
    follow,
    info_nce,
    queue_loss,
    spread,
    vicreg,
)

Features = Iterable[dict[str, Tensor]]


def _together() -> bool:
    """Whether several processes train together."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return bool(ready and torch.distributed.get_world_size() > 1)


def _of_all(embeddings_BD: Tensor) -> Tensor:
    """Embeddings of all processes, with a gradient to each."""
    found: Tensor = all_gather_with_grad(embeddings_BD) if _together() else embeddings_BD
    return found


class KeepsSpread(nn.Module):
    """What all losses have."""

    spread: float | None = None
    """Of the passages of the last step, 0 to about 1; None before the first."""

    def see(self, passages_BD: Tensor) -> None:
        """Look at the passages of a step."""
        self.spread = float(spread(passages_BD))

    @property
    def kept(self) -> dict[str, Tensor]:
        """What checkpoints hold of it beside the model, by name: tensors that are written into in place."""
        return {}


class InfoNceLoss(KeepsSpread, MultipleNegativesRankingLoss):  # type: ignore[misc]
    """In-batch and hard negatives."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """See the base class."""
        self.see(embeddings[1])
        found: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
        return found


class CachedInfoNceLoss(KeepsSpread, CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The same with gradient caching."""

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """See the base class."""
        self.see(torch.cat(reps[1]))
        found: Tensor = super().calculate_loss(reps, labels, with_backward=with_backward)
        return found


class _OfEmbeddings(ABC, KeepsSpread, CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """A loss of ours that is a function of all embeddings of a batch, with or without gradient caching."""

    model: Any
    forward_cached: Any

    def __init__(self, model: Any, cached: int) -> None:
        super().__init__(model, mini_batch_size=cached or 1)
        self._cached = cached > 0

    @abstractmethod
    def value(self, embeddings: Sequence[Tensor]) -> Tensor | dict[str, Tensor]:
        """The loss, or its terms by name.

        Args:
            embeddings: [B, D] of questions, of positives, and of each hard negative.
        """

    @property
    def uses_gradient_cache(self) -> bool:
        """See sentence-transformers' CachedLossMixin."""
        return self._cached

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor | dict[str, Tensor]:
        """The loss of a batch."""
        features = list(sentence_features)
        if self._cached:
            found: Tensor = self.forward_cached(features, labels)
            return found
        embeddings = [self.model(one)["sentence_embedding"] for one in features]
        self.see(embeddings[1])
        return self.value(embeddings)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """See the base class; embeddings are small, so the loss is computed in one piece."""
        embeddings = [torch.cat(one) for one in reps]
        self.see(embeddings[1])
        found = self.value(embeddings)
        loss = torch.stack(list(found.values())).sum() if isinstance(found, dict) else found
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


class SmoothedInfoNceLoss(_OfEmbeddings):
    """InfoNCE with label smoothing, which sentence-transformers has not."""

    def __init__(self, model: Any, *, temperature: float, smoothing: float, cosine: bool, cached: int) -> None:
        super().__init__(model, cached)
        self._temperature, self._smoothing, self._cosine = temperature, smoothing, cosine

    def value(self, embeddings: Sequence[Tensor]) -> Tensor:
        """See the base class."""
        questions_BD, *others = (F.normalize(one, dim=-1) for one in embeddings) if self._cosine else embeddings
        candidates_CD = torch.cat([_of_all(one) for one in others])
        first = torch.distributed.get_rank() * len(questions_BD) if _together() else 0
        return info_nce(questions_BD, candidates_CD, self._temperature, smoothing=self._smoothing, first=first)


class VicregLoss(_OfEmbeddings):
    """VICReg of questions and their passages, which sentence-transformers has not."""

    def __init__(self, model: Any, config: VicregConfig, *, dimension: int, cached: int) -> None:
        super().__init__(model, cached)
        self._weights = (config.invariance, config.variance, config.covariance)
        self.expander = expander(dimension, config.expander)

    def value(self, embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
        """See the base class. Variances and covariances are over the batches of all processes."""
        first_BD, second_BD = (self.expander(_of_all(one).float()) for one in embeddings[:2])
        return vicreg(first_BD, second_BD, self._weights)._asdict()

    @property
    def kept(self) -> dict[str, Tensor]:
        """See the base class."""
        return {f"expander.{name}": one for name, one in self.expander.state_dict(keep_vars=True).items()}


def expander(dimension: int, widths: Sequence[int]) -> nn.Module:
    """VICReg's expander: linear layers, batch norm and ReLU between them; nothing without widths."""
    if not widths:
        return nn.Identity()
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        last = number == len(widths) - 1
        layers.append(nn.Linear(dimension, width, bias=not last))
        layers += [] if last else [nn.BatchNorm1d(width), nn.ReLU()]
        dimension = width
    return nn.Sequential(*layers)


class MocoLoss(KeepsSpread):
    """A queue of the passages of earlier batches, embedded by a momentum encoder."""

    queue_QD: Tensor
    place_1: Tensor

    def __init__(
        self, model: Any, config: MocoConfig, *, dimension: int, temperature: float, smoothing: float, cosine: bool
    ) -> None:
        super().__init__()
        self.model = model
        # Without dropout, unlike Contriever's: keys are then what the encoder gives when it is used.
        self.slow = copy.deepcopy(model).requires_grad_(False).eval()
        self._momentum, self._temperature, self._smoothing = config.momentum, temperature, smoothing
        self._cosine = cosine
        # Random directions at first, as in Contriever: they are overwritten by the first batches.
        self.register_buffer("queue_QD", F.normalize(torch.randn(config.queue, dimension), dim=-1))
        self.register_buffer("place_1", torch.zeros(1, dtype=torch.long))

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        """The loss of a batch, whose passages are put into the queue afterwards."""
        questions, positives = list(sentence_features)[:2]
        questions_BD = self._compared(self.model(questions)["sentence_embedding"])
        with torch.no_grad():
            if self.training:
                follow(self.slow, getattr(self.model, "module", self.model), self._momentum)
            keys_BD = self._compared(self.slow(positives)["sentence_embedding"]).float()
        self.see(keys_BD)
        loss = queue_loss(questions_BD.float(), keys_BD, self.queue_QD.clone(), self._temperature, self._smoothing)
        if self.training:
            self.place_1.fill_(
                enqueue(self.queue_QD, all_gather(keys_BD) if _together() else keys_BD, int(self.place_1))
            )
        return loss

    def _compared(self, embeddings_BD: Tensor) -> Tensor:
        return F.normalize(embeddings_BD, dim=-1) if self._cosine else embeddings_BD

    @property
    def kept(self) -> dict[str, Tensor]:
        """See the base class: queue, place, and the momentum encoder."""
        slow = {f"slow.{name}": one for name, one in self.slow.state_dict(keep_vars=True).items()}
        return {"queue": self.queue_QD, "place": self.place_1, **slow}


class DistillationLoss(KeepsSpread, DistillKLDivLoss):  # type: ignore[misc]
    """A reader's likelihoods as the target; the value is that of `functions.distillation`, times τ²."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """See the base class."""
        self.see(embeddings[1])
        found: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
        return found
