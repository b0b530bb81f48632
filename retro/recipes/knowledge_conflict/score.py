"""The step `scores`: every answer judged, the metrics of each condition, and the page.

scores/judged.jsonl       one line a question: its answers under each condition, and what they say
scores/conflicts.json     the metrics
scores/quadrants.json     the quadrants under the names of InterExterRAG's files
scores/conflicts.html     tables, and cases of each quadrant
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import read_manifest
from retro.common.files import atomic_path, write_plain_json
from retro.common.json_files import json_items, read_text
from retro.evaluate.config import EvaluateConfig
from retro.qa.metrics.normalize import Rules
from retro.qa.task import load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.knowledge_conflict.answering import TASK, items_of, predictions_of
from retro.recipes.knowledge_conflict.conditions import (
    Confidence,
    Judged,
    base_condition,
    conflict_metrics,
    quadrant_of,
)
from retro.recipes.knowledge_conflict.confidence import CONFIDENCE
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, ConflictItem
from retro.recipes.knowledge_conflict.judgement import judge, matcher
from retro.recipes.knowledge_conflict.metrics import Intervals
from retro.recipes.knowledge_conflict.page import write_conflicts_page
from retro.recipes.knowledge_conflict.quadrants import original_record

log = logging.getLogger(__name__)

JUDGED, CONFLICTS, ORIGINAL, PAGE = "judged.jsonl", "conflicts.json", "quadrants.json", "conflicts.html"


def intervals_of(config: EvaluateConfig) -> Intervals:
    """As the run's other scores have them."""
    return Intervals(confidence=config.confidence, samples=config.bootstrap_samples, seed=config.seed)


def run(work: StepRun) -> Made:
    """Judge the answers and write metrics and page.

    Raises:
        RetroError: A file of an earlier step is damaged.
    """
    items, answers = items_of(work), work.made_by("answers")
    task = load_task(answers / TASK)
    matches, predictions = matcher(task.metrics[0], Rules.of(task)), predictions_of(answers)
    judged = {
        item.id: {
            name: judge(item, name, one.prediction, matches, work.settings.phrases)
            for name, one in predictions[item.id].items()
        }
        for item in items
    }
    sure = read_confidence(work.made_by("confidence") / CONFIDENCE) if work.settings.confidence else {}
    found = conflict_metrics(items, judged, sure, intervals_of(work.config.evaluate))
    manifest = read_manifest(answers / "closed_book", "generate")
    found |= {"metric": task.metrics[0], "kind": task.kind, "model": manifest.config["identity"]["checkpoint"]}
    found |= {"instruction": work.settings.instruction, "phrases": work.settings.phrases.model_dump(mode="json")}
    write_judged(work.directory / JUDGED, items, judged, sure)
    write_plain_json(work.directory / CONFLICTS, found)
    write_plain_json(work.directory / ORIGINAL, _original_names(items, judged))
    write_conflicts_page(work.directory / PAGE, found, items, judged, work.settings.report_cases)
    for line in summary_lines(found):
        log.info("knowledge_conflict: %s", line)
    counts = {"items": len(items), "quadrants": {name: one["count"] for name, one in found["quadrants"].items()}}
    return Made(files=[JUDGED, CONFLICTS, ORIGINAL, PAGE], counts=counts)


def read_confidence(path: Path) -> Confidence:
    """What the step `confidence` wrote."""
    return {one.value["id"]: one.value["conditions"] for one in json_items(path, read_text(path, "file of scores"))}


def write_judged(path: Path, items: Sequence[ConflictItem], judged: Judged, sure: Confidence) -> None:
    """One line a question, for the comparison of two models and for people."""
    base = base_condition(items)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        for item in items:
            record = {
                "id": item.id,
                "question": item.question,
                "answers": list(item.answers),
                "original": list(item.original),
                "counter": list(item.counter),
                "quadrant": quadrant_of(judged[item.id], base),
                "passages": item.record()["conditions"],
                "conditions": {name: one.record for name, one in judged[item.id].items()},
                "confidence": sure.get(item.id),
            }
            target.write(json.dumps(record, ensure_ascii=False) + "\n")


def _original_names(items: Sequence[ConflictItem], judged: Judged) -> dict[str, Any]:
    """The quadrants as InterExterRAG writes them, with the ids of the questions that have one."""
    base = base_condition(items)
    mine = [one.id for one in items if quadrant_of(judged[one.id], base) is not None]
    memory, context = ([bool(judged[one][name].right) for one in mine] for name in (CLOSED_BOOK, base))
    return {"ids": mine, **original_record(memory, context)}


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """What is logged: accuracies, and how often memory was kept against the passages."""
    lines = [f"closed-book: right {_percent(found['closed_book']['right'])}"]
    for name, one in found["conditions"].items():
        kept = one.get("memorisation_ratio", {}).get("known")
        ratio = f", memorisation ratio {_percent(kept)}" if kept else ""
        lines.append(f"{name}: right {_percent(one['right'])}{ratio}, abstains {_percent(one['abstains']['all'])}")
    return lines


def _percent(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "unknown (0 answers)"
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['share']:.1f} % ({low:.1f} to {high:.1f}; {found['count']} of {found['of']})"
