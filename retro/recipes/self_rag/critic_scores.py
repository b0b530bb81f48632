"""How often the critic says what the teacher said, family by family, on the items held out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.files import write_plain_json
from retro.common.statistics import estimate
from retro.recipes.base import Made
from retro.recipes.self_rag.critic import Critic
from retro.recipes.self_rag.critic_data import read_labelled
from retro.recipes.self_rag.tokens import FAMILIES, Family

log = logging.getLogger(__name__)

FILE = "agreement.json"
PUBLISHED: dict[str, dict[Family, float]] = {
    "Llama2-7B": {"retrieval": 0.938, "groundness": 0.935, "relevance": 0.802, "utility": 0.735},
    "FLAN-3B": {"retrieval": 0.856, "groundness": 0.731, "relevance": 0.820, "utility": 0.721},
}
"""Agreement with GPT-4 on its own held-out items (arXiv:2310.11511, table 5 of the appendix)."""


def run(critic: Critic, dev: Path, out: Path) -> Made:
    """Compare, and write what was said how often in place of what.

    Raises:
        DataError: The held-out items cannot be read.
    """
    items = read_labelled(dev) if dev.stat().st_size else []
    said = [one.token for one in critic.label(items)] if items else []
    families = {
        family: _agreement(
            [(one["output"], token) for one, token in zip(items, said, strict=True) if one["task"] == family]
        )
        for family in FAMILIES
    }
    found = {family: one for family, one in families.items() if one["items"]}
    for family, one in found.items():
        log.info(
            "critic: %s: agrees on %.1f %% of %d held-out items", family, 100 * one["agreement"]["mean"], one["items"]
        )
    if not found:
        log.warning("critic: nothing was held out, so nothing is measured; raise recipe.self_rag.critic.dev")
    write_plain_json(out / FILE, {"families": found, "published": PUBLISHED})
    return Made(files=[FILE], counts={family: one["agreement"]["mean"] for family, one in found.items()})


def _agreement(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Agreement of wanted and said tokens, with an interval, and the table of both."""
    if not pairs:
        return {"items": 0}
    table = Counter(pairs)
    right = [float(wanted == said) for wanted, said in pairs]
    mean = estimate(right, samples=1000, confidence=0.95, seed=1234)
    return {
        "items": len(pairs),
        "agreement": {name: round(value, 6) for name, value in asdict(mean).items()},
        "said_for_wanted": {f"{wanted} → {said}": count for (wanted, said), count in sorted(table.items())},
    }
