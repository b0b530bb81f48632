"""Validation while training: each held-out question among the passages of all of them.

The step `evaluate` of the recipe measures more, against all passages; this is the curve by which training is steered.
"""

# Dims in this file. B questions   C distinct passages   D dimension

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.evaluation import SentenceEvaluator
from torch import Tensor

from retro.recipes.dense_retriever.pairs import Pair
from retro.recipes.dense_retriever.training.batches import passage_text
from retro.recipes.dense_retriever.training.config import FitConfig, StartConfig, TrainConfig
from retro.recipes.dense_retriever.training.losses.functions import spread, vicreg

_AT_ONCE = 64


def ranks(scores_BC: Tensor, target_B: Tensor) -> Tensor:
    """[B] rank of each question's own passage, from 1. Equal scores count against it: of vectors that have all become
    one, none is found.
    """
    own_B1 = scores_BC.gather(1, target_B[:, None])
    return (scores_BC >= own_B1).sum(dim=1)


class HeldOut(SentenceEvaluator):  # type: ignore[misc]
    """Accuracy and loss on held-out pairs."""

    def __init__(self, pairs: Sequence[Pair], config: FitConfig, start: StartConfig) -> None:
        super().__init__()
        self._config, self._cosine = config, start.similarity == "cosine"
        self._questions = [start.query_prefix + one.question for one in pairs]
        texts = [start.passage_prefix + passage_text(one.positive, title=start.title) for one in pairs]
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._texts, self._target = list(place_of), torch.tensor([place_of[text] for text in texts])

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """`loss`, `top1`, `top5`, `mrr`, and the `spread` of the passages."""
        questions_BD, passages_CD = (
            torch.as_tensor(model.encode(texts, batch_size=_AT_ONCE, show_progress_bar=False)).float()
            for texts in (self._questions, self._texts)
        )
        found = {"loss": self._loss(questions_BD, passages_CD), "spread": float(spread(passages_CD))}
        if self._cosine:
            questions_BD, passages_CD = F.normalize(questions_BD, dim=-1), F.normalize(passages_CD, dim=-1)
        rank_B = ranks(questions_BD @ passages_CD.T, self._target).float()
        accuracy = {f"top{k}": float((rank_B <= k).float().mean()) for k in (1, 5)}
        return {**found, **accuracy, "mrr": float((1 / rank_B).mean())}

    def _loss(self, questions_BD: Tensor, passages_CD: Tensor) -> float:
        if isinstance(self._config, TrainConfig) and self._config.objective == "vicreg":
            weights = self._config.vicreg
            terms = vicreg(
                questions_BD, passages_CD[self._target], (weights.invariance, weights.variance, weights.covariance)
            )
            return float(torch.stack(list(terms)).sum())
        if self._cosine:
            questions_BD, passages_CD = F.normalize(questions_BD, dim=-1), F.normalize(passages_CD, dim=-1)
        return float(F.cross_entropy(questions_BD @ passages_CD.T / self._config.temperature, self._target))
