"""One item of a question file: InstructRetro's fields, in all their forms, read strictly.

Every mistake is one DataError that says where it is, what was found, and what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from retro.common.errors import DataError
from retro.common.json_files import JsonItem
from retro.qa.question import Context, Question, Role, Segment, Turn


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which of a file's fields are read, where the usual choice is not wanted."""

    answers: str = ""
    """The field with the answers; empty: the first of `answers`, `answer` and `longform_answer` that is there."""
    contexts: str = ""
    """The field with the passages; empty: the first of CONTEXT_FIELDS that holds any."""
    no_answer: str = ""
    """The answer of questions that are marked as unanswerable; empty: such a question is an error."""
    needs_answer: bool = True
    """Whether a question without an answer is an error."""


class NothingToLearnError(DataError):
    """A question is well-formed, but has no answer that could be learned or scored."""

    number: int = -1
    """Its place among the questions of its file, from 0, as far as that is known."""


def question_of(path: Path, found: JsonItem, fields: Fields) -> Question:
    """One item as a question.

    Raises:
        NothingToLearnError: It has no answer.
        DataError: A field is missing or of the wrong kind.
    """
    item, place = found.value, found.place
    text = item.get("question")
    if not isinstance(text, str) or not text.strip():
        problem = "has no 'question'" if "question" not in item else f"has the question {text!r}"
        raise DataError(path, f"{place} {problem}", "Give it a 'question' that is a text")
    unanswerable = item.get("is_impossible") is True
    segments = _segments(path, place, item)
    if segments and not fields.answers and not any(item.get(name) is not None for name in _ANSWER_FIELDS):
        item = {**item, "answer": "".join(one.token or one.text for one in segments)}
    return Question(
        id=_identifier(item, found.number),
        question=text.strip(),
        answers=_no_answer(path, place, fields) if unanswerable else _answers(path, place, item, fields),
        contexts=_contexts(path, place, item, fields.contexts),
        chunk_contexts=_chunk_contexts(path, place, item),
        options=_options(path, place, item),
        document_ids=_document_ids(path, place, item),
        turns=_turns(path, place, item),
        unanswerable=unanswerable,
        place=place,
        answer_groups=_answer_groups(path, place, item),
        labels=_labels(path, place, item),
        segments=segments,
        segments_only=_segments_only(path, place, item, segments),
    )


def _no_answer(path: Path, place: str, fields: Fields) -> tuple[str, ...]:
    if not fields.no_answer:
        raise NothingToLearnError(
            path,
            f"{place} is marked as unanswerable ('is_impossible')",
            "Ask it as a set or a task that has a text for no answer, such as squad2.0, or leave it out",
        )
    return (fields.no_answer,)


def _identifier(item: Mapping[str, Any], number: int) -> str:
    for key in ("id", "_id", "question_id", "qid"):
        if isinstance(item.get(key), str | int):
            return str(item[key])
    return str(number)


_ANSWER_FIELDS = ("answers", "answer", "longform_answer")


def _answers(path: Path, place: str, item: Mapping[str, Any], fields: Fields) -> tuple[str, ...]:
    wanted = fields.answers
    names = (wanted,) if wanted else _ANSWER_FIELDS
    key = next((key for key in names if item.get(key) is not None), None)
    if key is None and not fields.needs_answer:
        return ()
    if key is None:
        remedy = f"Give it {wanted!r}" if wanted else "Give it 'answers' (a list of texts) or 'answer' (a text)"
        raise NothingToLearnError(path, f"{place} has no {names[0]!r}", remedy)
    value = item[key]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        # The columns of SQuAD as HuggingFace stores it: {"text": [...], "answer_start": [...]}.
        value = value["text"]
    # A text is one gold answer. Going over its letters would make each letter a gold answer.
    many = value if isinstance(value, list) else [value]
    answers = [_answer_text(path, place, key, one) for one in many]
    kept = tuple(answer for answer in answers if answer)
    if not kept and fields.needs_answer:
        remedy = 'Give at least one answer that is not blank, or "is_impossible": true'
        raise NothingToLearnError(path, f"{place} has {key!r} = {value!r}", remedy)
    return kept


def _answer_text(path: Path, place: str, key: str, value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("text")
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value).strip()
    raise DataError(
        path, f"{place} has {value!r} in {key!r}", "An answer is a text, a number, or an object with a 'text'"
    )


CONTEXT_FIELDS = (
    "ctxs",
    "top_contexts",
    "docs",
    "neighbours",
    "neighbors",
    "bert_pretrain_corpus_neighbours",
    "sub-paragraphs",
    "sub_paragraph",
    "context",
)
"""Where passages may stand, best first. All but the last are InstructRetro's; `context` is HotpotQA's own."""


def _contexts(path: Path, place: str, item: Mapping[str, Any], wanted: str) -> tuple[Context, ...]:
    key = next((key for key in ((wanted,) if wanted else CONTEXT_FIELDS) if item.get(key)), None)
    if key is None:
        return ()
    value = item[key]
    if isinstance(value, dict) and isinstance(value.get("sentences"), list):
        value = _rows(path, place, key, value)
    single = isinstance(value, str | dict) or (key.startswith("sub") and _is_pair(value))
    many = [value] if single else value
    if not isinstance(many, list):
        raise DataError(path, f"{place} has a {type(value).__name__} in {key!r}", "Give a list of passages")
    return tuple(_context(path, place, key, one) for one in many)


def _chunk_contexts(path: Path, place: str, item: Mapping[str, Any]) -> tuple[tuple[Context, ...], ...] | None:
    value = item.get("chunk_ctxs")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise DataError(
            path,
            f"{place} has {str(value)[:60]!r} in 'chunk_ctxs'",
            "Give a list with one list of passages for each chunk of the answer; an empty one reads nothing",
        )
    return tuple(tuple(_context(path, place, "chunk_ctxs", one) for one in chunk) for chunk in value)


def _rows(path: Path, place: str, key: str, columns: Mapping[str, Any]) -> list[Any]:
    """HotpotQA's passages as HuggingFace stores them, `{"title": [...], "sentences": [[...], ...]}`, one by one."""
    titles, texts = columns.get("title"), columns["sentences"]
    if not isinstance(titles, list) or len(titles) != len(texts):
        raise DataError(
            path, f"{place} has titles and sentences of unlike number in {key!r}", "Give one title for each"
        )
    return [[title, text] for title, text in zip(titles, texts, strict=True)]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _context(path: Path, place: str, key: str, value: Any) -> Context:
    if isinstance(value, str):
        return Context("", value.strip())
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        name = value.get("document_id", value.get("id"))
        score = _score(path, place, key, value.get("score"))
        return Context(
            str(value.get("title") or "").strip(), value["text"].strip(), "" if name is None else str(name), score
        )
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        title, body = value
        if isinstance(body, list) and all(isinstance(sentence, str) for sentence in body):
            body = "".join(body)
        if isinstance(body, str):
            return Context(title.strip(), body.strip())
    raise DataError(
        path,
        f"{place} has {str(value)[:60]!r} in {key!r}",
        "A passage is a text, {title, text} or [title, text]",
    )


def _score(path: Path, place: str, key: str, value: Any) -> float:
    """The score of a passage: retrievers write it as a number, or as the text of one. 0 where there is none."""
    if value is None:
        return 0.0
    try:
        score = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        problem = f"{place} has a passage with the score {str(value)[:60]!r} in {key!r}"
        raise DataError(path, problem, "A score is a number, or a text that is one; or leave it out")
    return score


def _options(path: Path, place: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    if item.get("qa_type") != "multi_choice_qa":
        return ()
    options = item.get("multichoice_options")
    if not isinstance(options, list) or not options:
        raise DataError(
            path,
            f"{place} is 'multi_choice_qa' with multichoice_options = {options!r}",
            "Give 'multichoice_options', a list of texts",
        )
    return tuple(str(option) for option in options)


def _document_ids(path: Path, place: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    value = item.get("document_ids")
    if value is None:
        # HotpotQA names the titles of its supporting paragraphs.
        facts = item.get("supporting_facts") or []
        if isinstance(facts, dict):
            facts = [[title] for title in facts.get("title") or []]
        value = [fact[0] for fact in facts if isinstance(fact, list) and fact]
    if not isinstance(value, list):
        raise DataError(path, f"{place} has document_ids = {value!r}", "Give a list of document ids")
    return tuple(dict.fromkeys(str(name) for name in value))


def _turns(path: Path, place: str, item: Mapping[str, Any]) -> tuple[Turn, ...]:
    value = item.get("turns") or []
    remedy = "Give a list of {role, text}, a role being system, user or assistant"
    if not isinstance(value, list):
        raise DataError(path, f"{place} has turns = {value!r}", remedy)
    for turn in value:
        good = isinstance(turn, dict) and turn.get("role") in get_args(Role) and isinstance(turn.get("text"), str)
        if not good:
            raise DataError(path, f"{place} has the turn {str(turn)[:60]!r}", remedy)
    return tuple(Turn(turn["role"], turn["text"].strip()) for turn in value)


def _segments(path: Path, place: str, item: Mapping[str, Any]) -> tuple[Segment, ...]:
    value = item.get("segments") or []
    remedy = "Give a list of {text, learn} or {token, learn}; learn is true or false, and true where it is missing"
    if not isinstance(value, list):
        raise DataError(path, f"{place} has segments = {str(value)[:60]!r}", remedy)
    found = []
    for one in value:
        content = {"text", "token"} & one.keys() if isinstance(one, dict) else set()
        if len(content) != 1 or not isinstance(one[next(iter(content))], str) or one.keys() - content - {"learn"}:
            raise DataError(path, f"{place} has the segment {str(one)[:60]!r}", remedy)
        learn = one.get("learn", True)
        if not isinstance(learn, bool) or one.get("token") == "":
            raise DataError(path, f"{place} has the segment {str(one)[:60]!r}", remedy)
        found.append(Segment(text=one.get("text", ""), token=one.get("token", ""), learn=learn))
    if found and not any(one.learn for one in found):
        raise NothingToLearnError(path, f"{place} has segments of which none is learned", remedy)
    return tuple(found)


def _segments_only(path: Path, place: str, item: Mapping[str, Any], segments: Sequence[Segment]) -> bool:
    value = item.get("segments_only", False)
    if not isinstance(value, bool):
        raise DataError(path, f"{place} has segments_only = {str(value)[:40]!r}", "Give true or false")
    if value and (not segments or segments[0].learn):
        problem = f"{place} has segments_only, and {'a first segment that is learned' if segments else 'no segments'}"
        raise DataError(path, problem, "The first segment is what the model reads first: a prompt, with learn: false")
    return value


def _answer_groups(path: Path, place: str, item: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    groups = item.get("answer_groups") or []
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        problem = f"{place} has answer_groups = {str(groups)[:60]!r}"
        raise DataError(path, problem, "Give a list of lists of texts, none of them empty")
    return tuple(tuple(_answer_text(path, place, "answer_groups", one) for one in group) for group in groups)


# Longer texts do not tell a kind of question.
_LONGEST_LABEL = 64
_NO_LABELS = {"id", "_id", "question_id", "qid", "question", "segments_only", *_ANSWER_FIELDS, *CONTEXT_FIELDS}


_READ = _NO_LABELS | {"answer_groups", "chunk_ctxs", "document_ids", "is_impossible", "labels", "multichoice_options"}
_READ |= {"qa_type", "segments", "segments_only", "supporting_facts", "turns"}
# A label counts answers by kind. That is not what such a field is for.
_OF_PROMPTS = {
    "system",
    "system_prompt",
    "instruction",
    "history",
    "conversation",
    "conversations",
    "messages",
    "input",
}


def unread_fields(question: Question, item: Mapping[str, Any], fields: Fields) -> list[str]:
    """Fields of an item that its question has nothing of: no part of the prompt, no answer, no label."""
    read = _READ | {fields.answers, fields.contexts} | ({name for name, _ in question.labels} - _OF_PROMPTS)
    return [name for name in item if name not in read and item[name] not in (None, "", [], {})]


def _labels(path: Path, place: str, item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the item says in `labels`; without that, its short texts, whole numbers and yes-or-no fields."""
    given = item.get("labels")
    if given is not None and not isinstance(given, dict):
        raise DataError(path, f"{place} has labels = {given!r}", "Give an object of names and values")
    found = given if given is not None else {key: item[key] for key in item if key not in _NO_LABELS}
    short = {key: str(value) for key, value in found.items() if isinstance(value, str | int)}
    return tuple(sorted((key, value) for key, value in short.items() if 0 < len(value) <= _LONGEST_LABEL))
