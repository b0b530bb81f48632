"""Settings of scoring answers."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveInt

from retro.common.config import StageConfig


class EvaluateConfig(StageConfig):
    """Score answers against all their gold answers, and write the report."""

    questions: Path | None = None
    """A question file that the answers must match, id by id. None: they must match the questions that
    `generate` kept beside its answers."""

    recall_at: tuple[PositiveInt, ...] = (1, 2, 5)
    """Numbers of passages among which a gold document counts as found."""

    bootstrap_samples: PositiveInt = 2_000
    """Resamples of the questions behind each interval."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the resamples that an interval holds."""

    seed: NonNegativeInt = 1234
    """Seed of the resampling."""

    report_questions: NonNegativeInt = 30
    """Questions shown in full in the report: the first of the file, not chosen ones."""
