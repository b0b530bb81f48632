"""Step `evaluate`: every retriever on every set of questions, and the page that shows them side by side.

evaluate/embedders.json                     means with intervals, paired differences from the first retriever, counts
evaluate/embedders.html                     the same as tables and charts, with questions that two answer differently
evaluate/questions.jsonl                    one line a question and set: the values of each retriever, for `compare`
evaluate/rankings/SET.RETRIEVER.jsonl       what was found, best first
evaluate/positives.jsonl                    the passages of the set `positives`
evaluate/curves.json, .svg, .png            learning curves of training, where a model was trained
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.files import write_plain_json
from retro.recipes.dense_retriever.evaluation.compare import QUESTIONS, SCORES
from retro.recipes.dense_retriever.evaluation.config import EvaluationConfig
from retro.recipes.dense_retriever.evaluation.curves import Curves, draw
from retro.recipes.dense_retriever.evaluation.judgement import Asked, Found, Values, differences, judge, means
from retro.recipes.dense_retriever.evaluation.page import cases, main_metric, scores_page, set_title
from retro.recipes.dense_retriever.evaluation.rankings import RANKINGS, rank
from retro.recipes.dense_retriever.evaluation.retrievers import Retrievers
from retro.recipes.dense_retriever.evaluation.sets import (
    EvaluationSet,
)
from retro.recipes.item_files import write_items
from retro.recipes.knowledge_conflict.metrics import Intervals
from retro.report.render import write_page

log = logging.getLogger(__name__)

STORES = "stores"
"""Below the recipe's folder: embeddings and indexes of retrievers and passages, kept from run to run."""
PAGE, CURVES, POSITIVES = "embedders.html", "curves", "positives.jsonl"


def measure(
    one: EvaluationSet, retrievers: Retrievers, directory: Path, intervals: Intervals
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Search a set with every retriever.

    Args:
        one: Questions and passages.
        retrievers: Over these passages.
        directory: Where rankings go.
        intervals: How they are made.

    Returns:
        What embedders.json has of the set, and the lines of questions.jsonl.

    Raises:
        RetroError: A retriever cannot be opened.
    """
    config = retrievers.settings
    found: dict[str, list[Found]] = {}
    ids: dict[str, dict[str, tuple[str, ...]]] = {}
    # A hybrid joins what others found.
    for retriever in sorted(config.retrievers, key=lambda each: each.kind == "hybrid"):
        log.info("evaluate: %s by %s, %d questions", set_title(one.name), retriever.name, len(one.asked))
        found[retriever.name] = rank(
            one.asked, retrievers.open(retriever, ids), directory / RANKINGS / f"{one.name}.{retriever.name}.jsonl",
            n=config.depth, questions_per_block=config.questions_per_block, exclude_own_id=one.exclude_own_id,
        )  # fmt: skip
        pairs = zip(one.asked, found[retriever.name], strict=True)
        ids[retriever.name] = {asked.question: what.ids for asked, what in pairs}
    values = {each.name: judge(one.asked, found[each.name], config.at, one.document_of) for each in config.retrievers}
    first = config.retrievers[0].name
    scores = {
        "questions": len(one.asked),
        "passages": len(retrievers.passages),
        "searched": retrievers.passages.fingerprint,
        "without_relevant": sum(asked.without_relevant for asked in one.asked),
        "without_answers": sum(not asked.answers for asked in one.asked),
        "counts": dict(one.counts),
        "retrievers": {
            name: {
                "metrics": means(mine, intervals),
                "differences": None if name == first else differences(values[first], mine, intervals),
                "found_nothing": sum(not what.ids for what in found[name]),
            }
            for name, mine in values.items()
        },
    }
    return scores, list(_lines(one, found, values))


def _lines(
    one: EvaluationSet, found: Mapping[str, Sequence[Found]], values: Mapping[str, Sequence[Values]]
) -> Iterator[dict[str, Any]]:
    for place, asked in enumerate(one.asked):
        yield {
            "set": one.name,
            "id": asked.id,
            "question": asked.question,
            "judged_by": judged_by(asked),
            "values": {name: mine[place] for name, mine in values.items()},
            "best": {name: dict(mine[place].best) for name, mine in found.items()},
        }


def judged_by(asked: Asked) -> str:
    """A fingerprint of what counts as right for a question."""
    documents = None if asked.documents is None else sorted(asked.documents)
    return fingerprint([asked.relevant, documents, list(asked.answers)])[:16]


def write_all(
    out: Path,
    sets: Sequence[tuple[str, dict[str, Any], list[dict[str, Any]]]],
    config: EvaluationConfig,
    intervals: Intervals,
    curves: Curves,
) -> list[str]:
    """Write scores, questions, page and curves; gives the names of the files.

    Args:
        out: The step's folder.
        sets: Name, scores and lines of each set, from `measure`.
        config: What was asked.
        intervals: How they were made.
        curves: Of training; none where nothing was trained.
    """
    how = {"confidence": intervals.confidence, "resamples": intervals.samples, "seed": intervals.seed}
    names = [one.name for one in config.retrievers]
    measured = {name: found for name, found, _ in sets}
    scores = {"intervals": how, "at": list(config.at), "retrievers": names, "sets": measured}
    write_plain_json(out / SCORES, scores)
    write_items(out / QUESTIONS, (line for _, _, lines in sets for line in lines))
    groups: list[dict[str, Any]] = []
    if len(names) > 1 and config.cases:
        sides = [{"name": name, "key": name} for name in names[:2]]
        for name, found, lines in sets:
            mine = cases(lines, sides[0], sides[1], main_metric(found, config.at), config.cases)
            groups += [{**one, "title": f"{set_title(name)}, {one['title']}"} for one in mine]
    write_page(out / PAGE, scores_page(scores, curves, groups))
    return [SCORES, QUESTIONS, PAGE, *_write_curves(out, curves)]


def _write_curves(out: Path, curves: Curves) -> list[str]:
    if not curves:
        return []
    write_plain_json(out / f"{CURVES}.json", curves)
    for kind in ("svg", "png"):
        draw(curves, out / f"{CURVES}.{kind}")
    return [f"{CURVES}.{kind}" for kind in ("json", "svg", "png")]


def summary(sets: Sequence[tuple[str, dict[str, Any], Any]], config: EvaluationConfig) -> dict[str, Any]:
    """The main metric of each set and retriever, for the manifest and the log."""
    made: dict[str, Any] = {}
    for name, found, _ in sets:
        metric = main_metric(found, config.at)
        mine = {
            retriever: one["metrics"][metric]["mean"]
            for retriever, one in found["retrievers"].items()
            if metric in one["metrics"]
        }
        made[name] = {"questions": found["questions"], "passages": found["passages"], metric: mine}
        log.info("evaluate: %s, %s: %s", set_title(name), metric, ", ".join(f"{k} {v:.4f}" for k, v in mine.items()))
    return made
