"""Settings of scores: the section `evaluate` of `recipe.dynamic_prefix`."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from retro.common.config import StageConfig


class PrefixEvaluateConfig(StageConfig):
    """How answers are scored. Intervals, and BERTScore's encoder, are those of the run's section `evaluate`."""

    metrics: tuple[str, ...] = Field(
        default=("exact_match", "f1", "bleu_1", "rouge_1", "rouge_2", "rouge_l"), min_length=1
    )
    """Of each answer, the main metric first."""

    forced: bool = True
    """Also run the model over given answers, the gold one and its own, with documents and without: token accuracy,
    entropy, divergence and gain of log-likelihood."""

    batch_size: PositiveInt = 8
    """Answers in one such pass."""

    limit: PositiveInt | None = None
    """Only the first so many questions in such passes; absent: all."""
