"""The four quadrants of memory and context, from right and wrong answers: pure functions, no files.

|                     | context answer right | context answer wrong |
|---------------------|----------------------|----------------------|
| closed-book right   | `both`               | `memory`             |
| closed-book wrong   | `context`            | `neither`            |

A share is a JSON object `{"count", "of", "share", "low", "high"}` with Wilson's interval. Of nothing there is no share:
`share`, `low` and `high` are then null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from retro.common.statistics import wilson
from retro.qa.metrics.words import substring_match

Quadrant = Literal["both", "memory", "context", "neither"]
QUADRANTS: tuple[Quadrant, ...] = get_args(Quadrant)
ORIGINAL_NAMES: Mapping[Quadrant, str] = {
    "both": "both_correct",
    "memory": "inter_correct",
    "context": "exter_correct",
    "neither": "both_wrong",
}
"""What InterExterRAG's files call them: internal and external knowledge."""


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text has a gold answer, as whole words, both normalized: the metric `substring_match`.

    Raises:
        ValueError: There is no gold answer.
    """
    return substring_match(text, answers) == 1.0


def quadrant(memory: bool, context: bool) -> Quadrant:
    """The quadrant of a question.

    Args:
        memory: Whether its closed-book answer is right.
        context: Whether its answer with passages is right.
    """
    if memory:
        return "both" if context else "memory"
    return "context" if context else "neither"


def quadrants(memory: Sequence[bool], context: Sequence[bool]) -> list[Quadrant]:
    """[N] the quadrant of each question.

    Args:
        memory: [N] whether its closed-book answer is right.
        context: [N] whether its answer with passages is right.

    Raises:
        ValueError: They are not of the same questions.
    """
    if len(memory) != len(context):
        raise ValueError(f"{len(memory)} closed-book answers and {len(context)} answers with passages")
    return [quadrant(*pair) for pair in zip(memory, context, strict=True)]


def share(chosen: Sequence[bool], confidence: float = 0.95) -> dict[str, Any]:
    """How many of some items count, with Wilson's interval; nulls where there is no item."""
    return share_of(sum(chosen), len(chosen), confidence)


def share_of(count: int, of: int, confidence: float = 0.95) -> dict[str, Any]:
    """A share from its two numbers; see `share`.

    Raises:
        ValueError: More are counted than there are.
    """
    if of == 0 and count == 0:
        return {"count": 0, "of": 0, "share": None, "low": None, "high": None}
    low, high = wilson(count, of, confidence)
    return {"count": count, "of": of, "share": round(count / of, 6), "low": round(low, 6), "high": round(high, 6)}


def quadrant_shares(found: Sequence[Quadrant], confidence: float = 0.95) -> dict[Quadrant, dict[str, Any]]:
    """The share of all questions that each quadrant has.

    Args:
        found: [N] the quadrant of each question.
        confidence: Of the intervals.
    """
    return {name: share([one == name for one in found], confidence) for name in QUADRANTS}


def original_record(memory: Sequence[bool], context: Sequence[bool]) -> dict[str, Any]:
    """The quadrants as InterExterRAG's `*_gd.json` has them.

    Returns:
        `inter_gd_list` and `exter_gd_list` ([N] 0 or 1), `condition_list` ([N] names) and `condition_num` (counts).
    """
    names = [ORIGINAL_NAMES[one] for one in quadrants(memory, context)]
    return {
        "inter_gd_list": [int(one) for one in memory],
        "exter_gd_list": [int(one) for one in context],
        "condition_list": names,
        "condition_num": {name: names.count(name) for name in ORIGINAL_NAMES.values()},
    }
