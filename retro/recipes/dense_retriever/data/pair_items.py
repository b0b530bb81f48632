"""From an item of a file to a question with its positives and negatives: Contriever's and DPR's files, plain pairs and
triples, HotpotQA. Passages are told apart by the field that they are in, in whatever order the file has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retro.qa.formats import short_answers
from retro.qa.formats.item import BadItemError, Options

_QUESTIONS = ("question", "query", "anchor")
_POSITIVES = ("positive_ctxs", "positives", "positive", "pos")
_NEGATIVES = ("hard_negative_ctxs", "hard_negatives", "negative_ctxs", "negatives", "negative", "neg")
"""Hard ones first: where there are too many, the first are kept."""
_IDS = ("id", "_id", "qid", "query_id")
_PASSAGE_IDS = ("id", "_id", "passage_id", "psg_id", "docid")
_DOCUMENTS = ("document", "document_id", "doc_id")


class NoPositiveError(BadItemError):
    """An item has no passage that answers its question: nothing is wrong with it, and nothing can be learned of it."""


@dataclass(frozen=True, kw_only=True)
class PositiveText:
    """A passage as the file has it."""

    text: str
    title: str = ""
    id: str = ""
    document: str = ""
    """Empty: its title is its document, or where it has none its text."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an item holds."""

    id: str
    question: str
    positives: Sequence[PositiveText]
    negatives: Sequence[PositiveText] = ()
    answers: tuple[str, ...] = ()
    kind: str = ""
    """Of the positive, for counting."""


def plain_pairs(item: Mapping[str, Any], number: str) -> Found:
    """A question, its positives and negatives, under the names that public files have for them.

    Raises:
        NoPositiveError: There is no positive.
        BadItemError: A field is missing or of another type.
    """
    question = next((item[name] for name in _QUESTIONS if item.get(name) is not None), None)
    if not isinstance(question, str) or not question.strip():
        raise BadItemError("no_question", f"has no text under any of the names {', '.join(_QUESTIONS)}")
    document = name_of(item, _DOCUMENTS)
    positives = [one for name in _POSITIVES for one in _passages(item, name, document)]
    if not positives:
        raise NoPositiveError("no_positive", "has no positive")
    # sentence-transformers numbers them: negative_1, negative_2 …
    numbered = sorted((name for name in item if name.startswith("negative_") and name[9:].isdecimal()), key=_place)
    return Found(
        id=name_of(item, _IDS) or number,
        question=question.strip(),
        positives=positives,
        negatives=[one for name in (*_NEGATIVES, *numbered) for one in _passages(item, name, "")],
        answers=_answers(item),
    )


def hotpotqa(item: Mapping[str, Any], number: str) -> Found:
    """A question of HotpotQA: the supporting paragraphs are positives, the distractors negatives; an article is a
    document.

    Raises:
        NoPositiveError: None of the paragraphs supports the answer.
        BadItemError: It is no item of HotpotQA.
    """
    (made,) = short_answers.hotpotqa(item, number, Options())
    passages = [PositiveText(text=one.text, title=one.title, document=one.title) for one in made.question.contexts]
    gold = set(made.gold)
    if not gold:
        raise NoPositiveError("no_supporting_paragraph", "has no supporting paragraph among its own")
    return Found(
        id=made.question.id,
        question=made.question.question,
        positives=[one for place, one in enumerate(passages) if place in gold],
        negatives=[one for place, one in enumerate(passages) if place not in gold],
        answers=made.question.answers,
    )


def _place(name: str) -> int:
    return int(name[9:])


def _passages(item: Mapping[str, Any], name: str, document: str) -> Iterator[PositiveText]:
    """The passages of a field: texts or objects, one or a list."""
    value = item.get(name)
    if value is None:
        return
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            one = {"text": one}
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str):
            raise BadItemError("wrong_type", f"has {str(one)[:40]!r} in {name!r}, needed is a text, or title and text")
        if not one["text"].strip():
            raise BadItemError("empty_passage", f"has a passage without text in {name!r}")
        title = one.get("title")
        if title is not None and not isinstance(title, str):
            raise BadItemError("wrong_type", f"has {str(title)[:40]!r} as the title of a passage")
        own = name_of(one, _DOCUMENTS) or document
        yield PositiveText(
            text=one["text"].strip(), title=(title or "").strip(), id=name_of(one, _PASSAGE_IDS), document=own
        )


def name_of(item: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of some fields that is there, as text; empty where none is.

    Raises:
        BadItemError: One is neither text nor a whole number.
    """
    for name in names:
        value = item.get(name)
        if value is None:
            continue
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise BadItemError("wrong_type", f"has {str(value)[:40]!r} in {name!r}, needed is a text or whole number")
        if str(value).strip():
            return str(value).strip()
    return ""


def _answers(item: Mapping[str, Any]) -> tuple[str, ...]:
    value = item.get("answers", item.get("answer"))
    many = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in many):
        raise BadItemError("wrong_type", f"has {str(value)[:40]!r} as answers, needed are texts")
    return tuple(dict.fromkeys(one.strip() for one in many if one.strip()))
