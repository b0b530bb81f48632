"""Two models on the same conflict items, question by question.

What tuning changes, or what parts A from B: for each condition and each outcome (right, original answer, other answer,
abstains) the shares of both, the paired difference with its bootstrap interval, the 2x2 table and McNemar's exact test;
and from which quadrant of A questions come into which of B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.common.json_files import json_items, read_text, wrong_type
from retro.common.statistics import count_right, estimate, mcnemar
from retro.recipes.knowledge_conflict.items import Condition, in_order
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.metrics import Intervals, flips, mean
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS, Quadrant, share_of

OUTCOMES: Mapping[str, str] = {
    "right": "right",
    "original": "original answer",
    "counter": "other answer",
    "unknown": "abstains",
}
"""What is compared, in words."""
COMMAND = "retro recipe knowledge_conflict"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model's judged answers."""

    name: str
    directory: Path
    scores: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    """Lines of judged.jsonl."""

    def judged(self, place: int) -> dict[str, Judgement]:
        """The answers to a question, by condition."""
        return {name: Judgement(**one) for name, one in self.items[place]["conditions"].items()}


def open_side(path: Path) -> Side:
    """The judged answers of a run.

    Args:
        path: The run's directory, the recipe's folder in it, or that of the step `scores`.

    Raises:
        ArtifactError: There are none.
    """
    places = (path, path / "scores", path / "recipe_knowledge_conflict" / "scores")
    directory = next((one for one in places if (one / "judged.jsonl").is_file()), None)
    remedy = f"Run `{COMMAND} run CONFIG` first, or give the right folder"
    if directory is None:
        raise ArtifactError(path, "holds no scores of knowledge_conflict", remedy)
    scores = read_json(directory / "conflicts.json", remedy, _ScoresData)
    judged = directory / "judged.jsonl"
    items = []
    for one in json_items(judged, read_text(judged)):
        problem = wrong_type(one.value, _LineData)
        if problem:
            raise ArtifactError(judged, f"{one.place} {problem}", remedy)
        items.append(one.value)
    return Side(name=path.resolve().name, directory=directory, scores=scores, items=items)


class _JudgementData(TypedDict):
    prediction: str
    right: bool | None
    original: bool | None
    counter: bool | None
    unknown: bool
    unknown_strict: bool
    conflict: bool
    conflict_strict: bool
    context_right: bool | None


class _CandidateData(TypedDict):
    mean: float | None


class _LineData(TypedDict):
    id: str
    question: str
    answers: list[str]
    original: list[str]
    counter: list[str]
    quadrant: Quadrant | None
    passages: dict[Condition, list[dict[str, str]]]
    conditions: dict[str, _JudgementData]
    confidence: dict[str, dict[str, _CandidateData]] | None


class _ScoresData(TypedDict):
    metric: str
    kind: str
    instruction: str
    phrases: dict[str, list[str]]
    model: Any
    quadrants_of: str
    intervals: dict[str, Any]


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Differences of b from a, as JSON values.

    Raises:
        ArtifactError: They answered other questions, or read other passages.
        ConfigError: They were asked with another instruction, or scored by other metrics or phrases.
    """
    _require_comparable(a, b)
    how = a.scores["intervals"]
    intervals = Intervals(confidence=how["confidence"], samples=how["resamples"], seed=how["seed"])
    judged = [(a.judged(place), b.judged(place)) for place in range(len(a.items))]
    names = in_order({name for one, _ in judged for name in one})
    return {
        "a": {"name": a.name, "directory": str(a.directory), "model": a.scores["model"], "kind": a.scores["kind"]},
        "b": {"name": b.name, "directory": str(b.directory), "model": b.scores["model"], "kind": b.scores["kind"]},
        "items": len(judged),
        "metric": a.scores["metric"],
        "intervals": how,
        "conditions": {name: _condition([one for one in judged if name in one[0]], name, intervals) for name in names},
        "quadrants_of": a.scores["quadrants_of"],
        "quadrants": _moves(a, b, intervals),
        "confidence": {name: _surer(a, b, name, intervals) for name in names} if _have_confidence(a, b) else None,
    }


def _require_comparable(a: Side, b: Side) -> None:
    remedy = "Only answers to the same conflict items can be compared: give both runs the same file, settings and seed"
    if a.directory.resolve() == b.directory.resolve():
        raise ConfigError("RUN_B", str(b.directory), "needs another run than RUN_A")
    for number, (one, other) in enumerate(zip(a.items, b.items, strict=False), start=1):
        for key in ("id", "question", "answers", "original", "counter", "passages"):
            if one[key] != other[key]:
                problem = f"item {number} has {key} {str(other[key])[:80]!r}, {a.directory} has {str(one[key])[:80]!r}"
                raise ArtifactError(b.directory, problem, remedy)
    if len(a.items) != len(b.items):
        raise ArtifactError(b.directory, f"holds {len(b.items)} items, {a.directory} holds {len(a.items)}", remedy)
    for key in ("metric", "instruction", "phrases"):
        one, other = a.scores[key], b.scores[key]
        if one != other:
            need = "needs to be the same in both runs, which else differ by more than the model"
            raise ConfigError(f"recipe.knowledge_conflict.{key}", f"{one} and {other}", need)


def _condition(
    judged: Sequence[tuple[Mapping[str, Judgement], Mapping[str, Judgement]]], name: str, intervals: Intervals
) -> dict[str, Any]:
    pairs = [(one[name], other[name]) for one, other in judged]
    return {
        "items": len(pairs),
        **{
            outcome: paired([(getattr(one, outcome), getattr(other, outcome)) for one, other in pairs], intervals)
            for outcome in OUTCOMES
        },
        "flips": flips([one.right for one, _ in pairs], [other.right for _, other in pairs], intervals),
    }


def paired(values: Sequence[tuple[bool | None, bool | None]], intervals: Intervals) -> dict[str, Any]:
    """An outcome of two models on the same questions.

    Args:
        values: [N] of one and of the other; pairs of which one is not known are left out.
        intervals: How intervals are made.

    Returns:
        `a` and `b` (shares), `difference` (b - a, with its interval; nulls of no pair), `table` (`both`, `only_a`,
        `only_b`, `neither`) and `p` (McNemar's exact test; null of no pair).
    """
    known = [(bool(one), bool(other)) for one, other in values if one is not None and other is not None]
    a, b = ([float(pair[side]) for pair in known] for side in (0, 1))
    table = count_right(a, b)
    nothing: dict[str, Any] = {"mean": None, "low": None, "high": None, "count": 0}
    if known:
        differences = [other - one for one, other in zip(a, b, strict=True)]
        how = {"samples": intervals.samples, "seed": intervals.seed}
        found = asdict(estimate(differences, confidence=intervals.confidence, **how))
        nothing = {key: round(value, 6) for key, value in found.items()}
    return {
        "a": share_of(int(sum(a)), len(known), intervals.confidence),
        "b": share_of(int(sum(b)), len(known), intervals.confidence),
        "difference": nothing,
        "table": asdict(table),
        "p": mcnemar(table.only_a, table.only_b) if known else None,
    }


def _have_confidence(a: Side, b: Side) -> bool:
    return all(line["confidence"] is not None for side in (a, b) for line in side.items)


def _surer(a: Side, b: Side, name: str, intervals: Intervals) -> dict[str, Any]:
    """Differences b - a of mean log-probabilities per token: of the model's own answer, and of the other answer against
    the original one."""
    scored = [[line["confidence"].get(name, {}) for line in side.items] for side in (a, b)]
    changes: dict[str, list[float]] = {"answer": [], "counter_minus_original": []}
    for one, other in zip(*scored, strict=True):
        for key, values in changes.items():
            before, after = (_confidence_of(part, key) for part in (one, other))
            values += [] if before is None or after is None else [after - before]
    return {key: mean(values, intervals) for key, values in changes.items()}


def _confidence_of(scored: Mapping[str, Any], key: str) -> float | None:
    roles = ("answer",) if key == "answer" else ("counter", "original")
    found: list[float | None] = [scored.get(role, {}).get("mean") for role in roles]
    known = [one for one in found if one is not None]
    return None if len(known) < len(roles) else known[0] - sum(known[1:])


def _moves(a: Side, b: Side, intervals: Intervals) -> dict[str, Any]:
    """From each quadrant of a, how many questions come into which of b, and the quadrants of both."""
    pairs = [(one["quadrant"], other["quadrant"]) for one, other in zip(a.items, b.items, strict=True)]
    known = [pair for pair in pairs if None not in pair]
    return {
        "moves": {start: {end: known.count((start, end)) for end in QUADRANTS} for start in QUADRANTS},
        **{name: paired([(one == name, other == name) for one, other in known], intervals) for name in QUADRANTS},
    }
