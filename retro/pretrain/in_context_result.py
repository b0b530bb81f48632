"""From the losses of documents to perplexities with intervals, and to paired differences."""

# Dims in this file. D documents

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.evaluate.intervals import estimate_ratio
from retro.evaluate.paired import sign_flips
from retro.pretrain.config import Condition, InContextConfig

Losses = tuple[NDArray[np.float64], NDArray[np.int64]]
"""[D] summed loss and [D] scored tokens."""


@dataclass(frozen=True)
class Summary:
    """Takes means over documents, the tokens of one document being no independent draws."""

    settings: InContextConfig
    seed: int

    def rows(self, model: str, losses: Mapping[Condition, Losses]) -> list[dict[str, Any]]:
        """Loss and perplexity under each condition; no interval where there is a single document."""
        return [self._row(model, condition, *mine) for condition, mine in losses.items()]

    def _row(
        self, model: str, condition: Condition, loss_D: NDArray[np.float64], tokens_D: NDArray[np.int64]
    ) -> dict[str, Any]:
        found = self._estimate(loss_D, tokens_D)
        perplexities = {key: None if value is None else math.exp(value) for key, value in found.items()}
        return {
            "model": model,
            "passages": condition,
            "loss": found["mean"],
            "perplexity": perplexities["mean"],
            "low": perplexities["low"],
            "high": perplexities["high"],
            "tokens": int(tokens_D.sum()),
            "documents": int((tokens_D > 0).sum()),
        }

    def differences(self, model: str, losses: Mapping[Condition, Losses]) -> list[dict[str, Any]]:
        """What is found against every other condition, in nats per token: below 0, it helps."""
        if "found" not in losses:
            return []
        loss_D, tokens_D = losses["found"]
        there_D = tokens_D > 0
        return [
            {"model": model, "passages": "found", "minus": other}
            | self._estimate(loss_D - theirs_D, tokens_D)
            | {"test": "sign_flips", "p_value": sign_flips((loss_D - theirs_D)[there_D].tolist(), self.seed)}
            for other, (theirs_D, _) in losses.items()
            if other != "found"
        ]

    def _estimate(self, totals_D: NDArray[np.float64], tokens_D: NDArray[np.int64]) -> dict[str, float | None]:
        there_D = tokens_D > 0
        found = estimate_ratio(
            totals_D[there_D].tolist(),
            tokens_D[there_D].tolist(),
            samples=self.settings.bootstrap_samples,
            confidence=self.settings.confidence,
            seed=self.seed,
        )
        single = found.count < 2
        return {"mean": found.mean, "low": None if single else found.low, "high": None if single else found.high}
