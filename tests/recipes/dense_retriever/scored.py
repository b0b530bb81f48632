"""Scores as the step `evaluate` writes them, of two retrievers and a few questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.recipes.dense_retriever.evaluation.judgement import Values, differences, means
from retro.recipes.knowledge_conflict.metrics import Intervals

INTERVALS = Intervals(samples=50)
VALUES: Mapping[str, Sequence[Values]] = {
    "tuned": [{"document_top1": 1.0, "document_top5": 1.0, "document_mrr": 1.0, "document_mrr10": 1.0}] * 4,
    "minilm": [
        {"document_top1": 0.0, "document_top5": float(number == 3), "document_mrr": 0.2, "document_mrr10": 0.2}
        for number in range(4)
    ],
}


def scores(values: Mapping[str, Sequence[Values]] = VALUES, name: str = "passages", **more: Any) -> dict[str, Any]:
    """What embedders.json holds."""
    first = next(iter(values))
    retrievers = {
        retriever: {
            "metrics": means(mine, INTERVALS),
            "differences": None if retriever == first else differences(values[first], mine, INTERVALS),
        }
        for retriever, mine in values.items()
    }
    one = {
        "questions": 4, "passages": 9, "searched": "abc", "without_relevant": 1, "without_answers": 2,
        "retrievers": retrievers,
    }  # fmt: skip
    how = {"confidence": 0.95, "resamples": 50, "seed": 1234}
    return {"intervals": how, "at": [1, 5], "sets": {name: one | more}}


def lines(
    values: Mapping[str, Sequence[Values]] = VALUES, name: str = "passages", text: str = "text"
) -> list[dict[str, Any]]:
    """What questions.jsonl holds."""
    count = len(next(iter(values.values())))
    return [
        {
            "set": name, "id": f"{text} q{number}", "question": f"{text} ?", "judged_by": "f",
            "values": {retriever: mine[number] for retriever, mine in values.items()},
            "best": {retriever: {"title": text, "text": f"{text} of {retriever}"} for retriever in values},
        }
        for number in range(count)
    ]  # fmt: skip


def write(folder: Path, found: Mapping[str, Any] | None = None, items: Sequence[Mapping[str, Any]] = ()) -> Path:
    """A run with scores; gives its directory."""
    step = folder / "recipe_dense_retriever" / "evaluate"
    step.mkdir(parents=True)
    (step / "embedders.json").write_text(json.dumps(found or scores()), encoding="utf-8")
    written = "".join(json.dumps(one) + "\n" for one in items or lines())
    (step / "questions.jsonl").write_text(written, encoding="utf-8")
    return folder
