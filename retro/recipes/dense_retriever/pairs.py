"""What a retriever is trained and validated on: a question, the passage that answers it, and passages that do not.

`train.jsonl` and `valid.jsonl` of the step `pairs` have one pair a line:

    {"id": "q1", "question": "…", "answers": ["…"], "document": "d7",
     "positive": {"id": "d7#2", "title": "…", "text": "…", "document": "d7"},
     "negatives": [{"id": …, "title": …, "text": …, "document": …}], "other_positives": []}

No document is in both files. A question with several positives has a pair for each; `other_positives` are those that
have none.
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
    other_positives: tuple[PairPassage, ...] = ()
    """Positives of the question that are in no pair: nor are they negatives of it."""


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
    lists = {
        name: tuple(PairPassage(**one) for one in record.get(name, ())) for name in ("negatives", "other_positives")
    }
    return Pair(**{**record, **passages, **lists, "answers": tuple(record["answers"])})


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
    answers = item.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise DataError(path, f"{item['_place']} has {str(answers)[:40]!r} in 'answers', needed texts", _REMEDY)
    return Pair(
        id=item["id"],
        question=item["question"],
        document=item["document"],
        positive=_passage(path, item, item.get("positive")),
        answers=tuple(answers),
        negatives=_passages(path, item, "negatives"),
        other_positives=_passages(path, item, "other_positives"),
    )


def _passages(path: Path, item: Mapping[str, Any], name: str) -> tuple[PairPassage, ...]:
    found = item.get(name, [])
    if not isinstance(found, list):
        raise DataError(path, f"{item['_place']} has {str(found)[:40]!r} in {name!r}, needed a list", _REMEDY)
    return tuple(_passage(path, item, one) for one in found)


def _passage(path: Path, item: Mapping[str, Any], value: Any) -> PairPassage:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("id", "text")):
        problem = f"{item['_place']} has {str(value)[:40]!r} as a passage, needed id, text and title"
        raise DataError(path, problem, _REMEDY)
    title, document = (str(value.get(name) or "") for name in ("title", "document"))
    return PairPassage(id=value["id"], text=value["text"], title=title, document=document)
