"""From answers to numbers: means with intervals, differences of settings, recall, and the same for each slice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro import __version__
from retro.common import checksummed_json
from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.files import atomic_path, write_json
from retro.common.statistics import estimate
from retro.evaluate.config import BertScoreConfig, EvaluateConfig
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.metrics.normalize import golds_of, normalize_answer
from retro.qa.metrics.registry import metric_facts
from retro.qa.metrics.scoring import Values, score
from retro.qa.metrics.words import distinct, ends_in_loop, repeated
from retro.qa.question import PassageLike
from retro.qa.task import Task


def answer_in_passages(answer: Answer) -> bool:
    """Whether any gold answer stands, as whole words, in the title or text of any passage."""
    return any(_contains(f"{p.title} {p.text}", gold) for p in answer.passages for gold in golds_of(answer.answers))


def _contains(text: str, gold: str) -> bool:
    short = normalize_answer(gold)
    return f" {short} " in f" {normalize_answer(text)} " if short else gold.strip() in text


def document_found(passages: Sequence[PassageLike], document_ids: Collection[str], k: int) -> bool:
    """Whether one of the documents is among the first k passages, by id or by title."""
    return any(p.document_id in document_ids or p.title in document_ids for p in passages[:k])


BERT_SCORE = "bert_score"
"""Name of the metric that `evaluate.bert_score` adds."""
SCORES = "scores.json"
PER_QUESTION = "questions.jsonl"

# More values than this are not kinds of question.
_MOST_VALUES = 50
NO_LABEL = "(none)"
"""The slice of questions that lack a label."""


def score_answers(
    config: EvaluateConfig, task: Task, asked: Sequence[QuestionLine], answers: Mapping[str, Sequence[Answer]]
) -> tuple[dict[str, Any], dict[str, Values]]:
    """Scores of each setting, paired differences of the first setting to each other one, and the same by slices.

    Args:
        config: Intervals, recall, slices.
        task: Metrics, the main one first, and rules.
        asked: [N] questions.
        answers: [N] answers of each setting, lined up with the questions.

    Returns:
        JSON values ("questions", "task", "metrics", "metric_facts", "settings", "differences", "slices", "intervals"),
        and by setting the numbers of each question.

    Raises:
        ConfigError: A metric does not fit the questions, or a slice is not a label of theirs.
        DataError, DependencyError: The encoder of BERTScore cannot be loaded.
    """
    if config.gold == "first":
        asked = [_first_gold(one) for one in asked]
    values = {name: score(task, asked, mine) for name, mine in answers.items()}
    metrics, facts = list(task.metrics), {name: metric_facts(name) for name in task.metrics}
    if config.bert_score is not None:
        added, facts[BERT_SCORE] = _bert_scores(config.bert_score, asked, answers)
        values = {name: {**mine, BERT_SCORE: added[name]} for name, mine in values.items()}
        metrics.append(BERT_SCORE)
    everything = range(len(asked))
    scores = {
        "questions": len(asked),
        "task": {"name": task.name, "version": task.version},
        "metrics": metrics,
        "metric_facts": facts,
        "settings": {
            name: _means(config, values[name], everything) | _coverage(config, asked, mine) | _wording(mine)
            for name, mine in answers.items()
        },
        "differences": _differences(config, values, everything),
        "slices": {label: _slices(config, label, asked, values) for label in config.slices},
        "intervals": {"confidence": config.confidence, "resamples": config.bootstrap_samples, "seed": config.seed},
    }
    return scores, values


def _bert_scores(
    config: BertScoreConfig, asked: Sequence[QuestionLine], answers: Mapping[str, Sequence[Answer]]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """BERTScore's F1 of each setting's answers, and what scores record of the metric."""
    from retro.evaluate.bert_score import bert_score, open_encoder

    unscored = next((one.id for one in asked if not one.answers), None)
    if unscored is not None:
        raise ConfigError("evaluate.bert_score", config.model, f"does not fit question {unscored!r}: no gold answer")
    encode, golds = open_encoder(config), [one.answers for one in asked]
    found = {
        name: [one.f1 for one in bert_score(encode, [answer.prediction for answer in mine], golds, idf=config.idf)]
        for name, mine in answers.items()
    }
    facts = {
        "label": "BERTScore F1",
        "range": [-1.0, 1.0],
        "higher_is_better": True,
        "aggregate": "mean",
        "computed_by": f"instruct-retro {__version__}",
        "encoder": {**encode.identity, "idf": config.idf},
    }
    return found, facts


def _first_gold(asked: QuestionLine) -> QuestionLine:
    return QuestionLine(**(vars(asked) | {"answers": asked.answers[:1], "answer_groups": asked.answer_groups[:1]}))


def _means(config: EvaluateConfig, values: Values, chosen: Sequence[int]) -> dict[str, Any]:
    return {metric: _estimate(config, [numbers[n] for n in chosen]) for metric, numbers in values.items()}


def _differences(config: EvaluateConfig, values: Mapping[str, Values], chosen: Sequence[int]) -> list[dict[str, Any]]:
    first, *others = values
    return [
        {"setting": first, "minus": other} | _paired(config, values[first], values[other], chosen) for other in others
    ]


def _paired(config: EvaluateConfig, one: Values, other: Values, chosen: Sequence[int]) -> dict[str, Any]:
    return {
        metric: _estimate(config, [numbers[n] - other[metric][n] for n in chosen]) for metric, numbers in one.items()
    }


def _slices(
    config: EvaluateConfig, label: str, asked: Sequence[QuestionLine], values: Mapping[str, Values]
) -> dict[str, dict[str, Any]]:
    """By value of a label: how many questions, the scores of each setting, and the differences."""
    known = sorted({name for one in asked for name in one.labels})
    if label not in known:
        need = unknown_name(label, known).replace("a setting", "a label of these questions")
        raise ConfigError("evaluate.slices", label, need if known else "needs labels; these questions have none")
    parts: dict[str, list[int]] = {}
    for number, one in enumerate(asked):
        parts.setdefault(one.labels.get(label, NO_LABEL), []).append(number)
    if len(parts) > _MOST_VALUES:
        need = f"needs a label with at most {_MOST_VALUES} values; these questions have {len(parts)}"
        raise ConfigError("evaluate.slices", label, need)
    return {
        value: {
            "questions": len(parts[value]),
            "settings": {name: _means(config, mine, parts[value]) for name, mine in values.items()},
            "differences": _differences(config, values, parts[value]),
        }
        for value in sorted(parts)
    }


def _estimate(config: EvaluateConfig, values: Sequence[float]) -> dict[str, float]:
    found = estimate(values, samples=config.bootstrap_samples, confidence=config.confidence, seed=config.seed)
    return {key: round(value, 6) for key, value in asdict(found).items()}


def _coverage(config: EvaluateConfig, asked: Sequence[QuestionLine], answers: Sequence[Answer]) -> dict[str, Any]:
    """What the passages held, whatever the model made of it."""
    empty = sum(not answer.prediction for answer in answers)
    skipped = sum(bool(answer.skipped) for answer in answers)
    coverage: dict[str, Any] = {"unanswered": empty, "skipped": skipped, "recall": None, "answer_in_passages": None}
    if not any(answer.passages for answer in answers):
        return coverage
    known = [(one, mine) for one, mine in zip(asked, answers, strict=True) if one.document_ids]
    if known:
        most = max(len(answer.passages) for answer in answers)
        shares = {
            str(k): sum(document_found(mine.passages, one.document_ids, k) for one, mine in known) / len(known)
            for k in sorted({min(k, most) for k in config.recall_at})
        }
        coverage["recall"] = {"at": shares, "questions": len(known)}
    golden = [answer for answer in answers if answer.answers]
    coverage["answer_in_passages"] = sum(map(answer_in_passages, golden)) / len(golden) if golden else None
    return coverage


def _wording(answers: Sequence[Answer]) -> dict[str, Any]:
    """How long and how varied the answers are, and how many go round in circles; over those that are not empty."""
    said = [answer.prediction for answer in answers if answer.prediction]
    shares = {f"distinct_{n}": distinct(said, n) for n in (1, 2, 3)}
    counted = {
        "words": sum(len(text.split()) for text in said) / len(said) if said else None,
        "repeated_4": sum(map(repeated, said)) / len(said) if said else None,
        "in_a_loop": sum(map(ends_in_loop, said)) / len(said) if said else None,
    }
    rounded = {name: None if value is None else round(value, 6) for name, value in (shares | counted).items()}
    return {"wording": rounded}


def write_scores(
    out: Path,
    scores: Mapping[str, Any],
    asked: Sequence[QuestionLine],
    answers: Mapping[str, Sequence[Answer]],
    values: Mapping[str, Values],
) -> None:
    """Write scores.json, and questions.jsonl with each question's own scores."""
    lines = []
    for number, one in enumerate(asked):
        mine = {
            name: {"prediction": given[number].prediction}
            | {metric: numbers[number] for metric, numbers in values[name].items()}
            for name, given in answers.items()
        }
        record = {"id": one.id, "question": one.question, "answers": one.answers, "settings": mine}
        lines.append(checksummed_json.line(record))
    with atomic_path(out / PER_QUESTION) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    write_json(out / SCORES, dict(scores))
