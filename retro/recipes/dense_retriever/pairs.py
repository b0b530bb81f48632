"""What a retriever is trained and validated on: a question, the passage that answers it, and passages that do not.

`train.jsonl` and `valid.jsonl` of the step `pairs` have one pair a line:

    {"id": "q1", "question": "…", "answers": ["…"], "document": "d7",
     "positive": {"id": "d7#2", "title": "…", "text": "…", "document": "d7"},
     "negatives": [{"id": …, "title": …, "text": …, "document": …}]}

No document is in both files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.qa.metrics.normalize import normalize_answer
from retro.recipes.item_files import read_items, write_items

_REMEDY = "Run the step that wrote it again with --redo"


@dataclass(frozen=True, kw_only=True)
class PairPassage:
    """A passage of a pair."""

    id: str
    text: str
    title: str = ""
    document: str = ""
    """What it was cut from, where that is known; else its id or its title may say."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A question and the passage that answers it."""

    id: str
    question: str
    document: str
    """What the positive was cut from: the unit of the split. Its other passages are no negatives."""
    positive: PairPassage
    answers: tuple[str, ...] = ()
    """Short answers, for accuracy by answer string; may be empty."""
    negatives: tuple[PairPassage, ...] = ()


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write one pair per line."""
    write_items(path, map(asdict, pairs))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        DataError: It is missing, empty, or a line is no pair.
    """
    found = read_items(path, ("id", "question", "document"), "pairs of questions and passages")
    return [_pair(path, one) for one in found]


def pair_of_record(record: Mapping[str, Any]) -> Pair:
    """The pair of a line that `write_pairs` wrote, without checks."""
    passages = {"positive": PairPassage(**record["positive"])}
    negatives = tuple(PairPassage(**one) for one in record["negatives"])
    return Pair(**{**record, **passages, "negatives": negatives, "answers": tuple(record["answers"])})


def question_key(question: str) -> str:
    """What two questions that ask the same in the same words have in common: no case, punctuation or articles."""
    return normalize_answer(question) or text_key(question)


def text_key(text: str) -> str:
    """What two copies of a passage have in common, however they are spaced and capitalized."""
    return " ".join(text.casefold().split())


def text_id(title: str, text: str) -> str:
    """An id for a passage that has none: equal for equal passages."""
    return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]


def _pair(path: Path, item: Mapping[str, Any]) -> Pair:
    answers, negatives = item.get("answers", []), item.get("negatives", [])
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise DataError(path, f"{item['_place']} has {str(answers)[:40]!r} in 'answers', needed texts", _REMEDY)
    if not isinstance(negatives, list):
        raise DataError(path, f"{item['_place']} has {str(negatives)[:40]!r} in 'negatives', needed a list", _REMEDY)
    return Pair(
        id=item["id"],
        question=item["question"],
        document=item["document"],
        positive=_passage(path, item, item.get("positive")),
        answers=tuple(answers),
        negatives=tuple(_passage(path, item, one) for one in negatives),
    )


def _passage(path: Path, item: Mapping[str, Any], value: Any) -> PairPassage:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("id", "text")):
        problem = f"{item['_place']} has {str(value)[:40]!r} as a passage, needed id, text and title"
        raise DataError(path, problem, _REMEDY)
    title, document = (str(value.get(name) or "") for name in ("title", "document"))
    return PairPassage(id=value["id"], text=value["text"], title=title, document=document)
