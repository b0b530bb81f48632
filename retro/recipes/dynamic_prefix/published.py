"""Published numbers that tables show beside ours; none of them was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED: Mapping[str, Any] = {
    "source": "github.com/will0010077/Reinforced-Retrieval: LLaMA, one document of 512 tokens found among 200,000, "
    "98,708 questions of Natural Questions, 5 % of them for validation; 6 epochs",
    "modes": {
        "prefix": {"exact_match": 0.2620, "bert_score": 0.6673},
        "none": {"exact_match": 0.0286, "bert_score": 0.3999},
    },
    "training": {"exact_match": 0.3173, "token_accuracy": 0.7882, "loss": 0.897},
}
"""By mode. `training`: on the training questions, under teacher forcing for token accuracy."""
