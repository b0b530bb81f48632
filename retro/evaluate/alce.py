"""ALCE's scores of long answers with citations (Gao et al. 2023, arXiv:2305.14627), of a file in its own form.

What needs a model is asked of whatever is handed in; `retro.evaluate.alce_models` has models of transformers.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NotRequired, Protocol

from typing_extensions import TypedDict

from retro.common.errors import DataError
from retro.common.files import read_json, write_plain_json
from retro.common.json_files import MAX_TEXT_BYTES
from retro.evaluate.alce_models import load_scorers
from retro.qa.citations import Entails, rendered_passage, score_citations, without_citations
from retro.qa.metrics.rouge import rouge_lsum
from retro.qa.metrics.words import exact_match, f1, string_em


class Answers(Protocol):
    """Reads answers out of texts."""

    def __call__(self, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """[N] a piece of each context that answers the question of its place; empty: it has none."""


class Mauve(Protocol):
    """Compares two sets of texts."""

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> float:
        """MAUVE, from 0 to 1 (Pillutla et al. 2021, arXiv:2102.01454)."""


class _Passage(TypedDict):
    text: str
    title: NotRequired[str | None]


class _Pair(TypedDict):
    question: str
    short_answers: list[str]


class _Annotation(TypedDict):
    long_answer: NotRequired[str | None]


class _Item(TypedDict):
    question: str
    output: str
    docs: NotRequired[list[_Passage] | None]
    qa_pairs: NotRequired[list[_Pair] | None]
    annotations: NotRequired[list[_Annotation] | None]
    answer: NotRequired[str | None]


class _File(TypedDict):
    data: list[_Item]


@dataclass(frozen=True, kw_only=True)
class AlceItem:
    """A question with its answer and what that is compared with."""

    question: str
    output: str
    """The first line of the answer, with its citations."""
    passages: tuple[str, ...] = ()
    """What the answer cites, rendered, in the order of the numbers."""
    pairs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What the question may mean: each meaning as a question, and its short answers."""
    long_answers: tuple[str, ...] = ()
    """Gold answers; the best match counts."""
    answer: str = ""
    """The gold answer that MAUVE compares with."""

    @property
    def plain(self) -> str:
        """The answer without citations."""
        return without_citations(self.output).strip()


def read_alce(path: Path) -> list[AlceItem]:
    """The questions of a file `{"data": [{question, output, docs, qa_pairs, annotations, answer}]}`.

    Raises:
        DataError: The file is missing or broken, an item has not this form, or some have gold answers and others not.
    """
    remedy = "Give a file in ALCE's form, as `retro export-answers --form alce` writes it"
    data = read_json(path, remedy, _File, error=DataError, limit=MAX_TEXT_BYTES, keys_once=False)["data"]
    if not data:
        raise DataError(path, "holds no question", remedy)
    items = [_item(path, number, one) for number, one in enumerate(data)]
    for field, called in (("pairs", "qa_pairs"), ("long_answers", "annotations and no answer")):
        lacking = [number for number, item in enumerate(items) if not getattr(item, field)]
        if 0 < len(lacking) < len(items):
            # A score over the others alone would be one of another set of questions.
            problem = f"data.{lacking[0]} has no {called}; {len(lacking):,} of {len(items):,} questions lack them"
            raise DataError(path, problem, "Give them to all questions, or to none")
    return items


def _item(path: Path, number: int, item: _Item) -> AlceItem:
    notes = [one.get("long_answer") or "" for one in item.get("annotations") or []]
    answer = (item.get("answer") or "").strip()
    golds = tuple(text.strip() for text in notes if text.strip()) or ((answer,) if answer else ())
    pairs = tuple((one["question"], _not_blank(one["short_answers"])) for one in item.get("qa_pairs") or [])
    if any(not answers for _, answers in pairs):
        raise DataError(path, f"data.{number} has a pair without short_answers", "Give it one, or leave the pair out")
    return AlceItem(
        question=item["question"].strip(),
        output=first_line(item["output"]),
        passages=tuple(rendered_passage(one.get("title") or "", one["text"]) for one in item.get("docs") or []),
        pairs=pairs,
        long_answers=golds,
        answer=answer or (golds[0] if golds else ""),
    )


def _not_blank(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text.strip())


def first_line(output: str) -> str:
    """What of an output is scored: its first line, without the mark that ends a turn in some chat templates."""
    return output.strip().partition("\n")[0].replace("<|im_end|>", "").strip()


def score_alce(
    items: Sequence[AlceItem],
    *,
    entails: Entails | None = None,
    answers: Answers | None = None,
    mauve: Mauve | None = None,
) -> dict[str, float]:
    """Every score that the items and the models allow, under ALCE's names; all but `length` in percent.

    Args:
        items: One at least; from `read_alce`.
        entails: For `citation_rec` and `citation_prec`.
        answers: For `QA-EM`, `QA-F1` and `QA-Hit`.
        mauve: For `mauve`.

    Raises:
        ValueError: There is no item, a model needs what they lack, or `answers` lost one.
    """
    if not items or (lacking := _lacking(items[0], answers=answers, mauve=mauve)):
        raise ValueError(f"the items have no {lacking}" if items else "there is no item")
    said = [item.plain for item in items]
    scores = {"length": fmean(len(text.split()) for text in said)}
    if items[0].pairs:
        shares = [string_em(text, [golds for _, golds in item.pairs]) for text, item in zip(said, items, strict=True)]
        scores |= {"str_em": _percent(shares), "str_hit": _percent([share == 1 for share in shares])}
    if items[0].long_answers:
        best = [rouge_lsum(text, item.long_answers) for text, item in zip(said, items, strict=True)]
        scores["rougeLsum"] = _percent(best)
    if answers is not None:
        scores |= _read_answers(items, answers)
    if mauve is not None:
        predicted = [beginning(item.question, item.plain) for item in items]
        scores["mauve"] = 100 * mauve(predicted, [beginning(item.question, item.answer) for item in items])
    if entails is not None:
        cited = score_citations([item.output for item in items], [item.passages for item in items], entails)
        scores["citation_rec"] = _percent([one.recall for one in cited])
        scores["citation_prec"] = _percent([one.precision for one in cited])
    return scores


def _lacking(item: AlceItem, *, answers: object, mauve: object) -> str:
    """What the models need and items like this one lack; empty: nothing."""
    if answers is not None and not item.pairs:
        return "qa_pairs"
    return "annotations and no answer" if mauve is not None and not item.answer else ""


def _percent(shares: Sequence[float]) -> float:
    return 100 * fmean(shares)


def _read_answers(items: Sequence[AlceItem], answers: Answers) -> dict[str, float]:
    """How well a reader of the answer alone answers each meaning of the question; `QA-Hit`: all of them exactly."""
    asked = [(question, item.plain) for item in items for question, _ in item.pairs]
    said = answers([question for question, _ in asked], [text for _, text in asked])
    if len(said) != len(asked):
        raise ValueError(f"{len(asked)} questions were asked and {len(said)} answered")
    found = iter(said)
    exact, overlap = list[list[float]](), list[list[float]]()
    for item in items:
        mine = [(next(found), golds) for _, golds in item.pairs]
        exact.append([exact_match(text, golds) for text, golds in mine])
        overlap.append([f1(text, golds) for text, golds in mine])
    return {
        "QA-EM": _percent([fmean(one) for one in exact]),
        "QA-F1": _percent([fmean(one) for one in overlap]),
        "QA-Hit": _percent([all(one) for one in exact]),
    }


_MAUVE_WORDS = 100


def beginning(question: str, answer: str) -> str:
    """What MAUVE compares: question and answer, their first 100 words, without punctuation at the end."""
    return " ".join(f"{question} {answer}".split()[:_MAUVE_WORDS]).rstrip(string.punctuation)


def run_alce(
    path: Path, *, out: Path | None = None, nli: str | None = None, qa: str | None = None, mauve: str | None = None
) -> dict[str, Any]:
    """Score a file, and write the scores beside it.

    Args:
        path: In ALCE's form.
        out: Where the scores go; None: `path` with `.score` after its name, as ALCE has it.
        nli: A folder or a name on the Hub, of a model that says what is entailed; None: no score of citations.
        qa: The same of a model that reads answers out of texts; None: none of its scores.
        mauve: The same of a language model whose features MAUVE compares; None: no MAUVE.

    Returns:
        The scores, the number of questions, and the models, as they are written.

    Raises:
        DataError: The file or a model cannot be used.
        DependencyError: A package that a model needs is missing.
        ArtifactError: The scores cannot be written.
    """
    items = read_alce(path)
    if lacking := _lacking(items[0], answers=qa, mauve=mauve):
        raise DataError(path, f"has no {lacking}", "Give them to all questions, or leave out the model that needs them")
    models = {kind: name for kind, name in (("nli", nli), ("qa", qa), ("mauve", mauve)) if name is not None}
    scores = score_alce(items, **load_scorers(models))
    rounded = {name: round(value, 6) for name, value in scores.items()}
    found = {**rounded, "questions": len(items), "models": models}
    write_plain_json(out or path.with_name(f"{path.name}.score"), found)
    return found
