"""Items of the recipe: a question, its sub-questions with paragraphs and answers, the final answer; two layouts.

    new   question, multihop, sub_questions[{question, paragraph, long_answer}], final_answer, answer, meta_info, tag
    old   src, question, final_answer (also found as `inal_answer`), answer,
          sub_questions[{question, answer, long_answer, paragraph, unanswerable}]

A long answer is `<reasoning>\\nAnswer:<answer>`; the final answer of a multi-hop item is
`Summary:<summary>\\nAnswer:<answer>`, that of a single-hop item the plain answer. Fields that neither layout knows are
kept as they are: what was read and written again is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retro.qa.formats.item import BadItemError, optional_text, text_of

Layout = Literal["new", "old"]
LAYOUTS: tuple[Layout, ...] = ("new", "old")
ANSWER, SUMMARY = "Answer:", "Summary:"
_MISSPELT = "inal_answer"
_OWN = {"question", "multihop", "sub_questions", "final_answer", "answer", "id", "src", "meta_info", "meta", _MISSPELT}
_OF_SUB_QUESTION = {"question", "paragraph", "long_answer", "unanswerable", "answer"}


@dataclass(frozen=True, kw_only=True)
class SubQuestion:
    """One of the questions that a question comes down to."""

    question: str
    paragraph: str
    """What it is answered from; may be empty."""
    long_answer: str
    """`<reasoning>\\nAnswer:<answer>`, or in older data a sentence; empty in some single-hop items."""
    unanswerable: bool = False
    """Whether the paragraph does not hold the answer."""
    answer: str = ""
    """The short answer, where the data has it apart from the long one."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not known here."""


@dataclass(frozen=True, kw_only=True)
class MultiHopItem:
    """A question with the way to its answer. One that is not multi-hop has exactly one sub-question."""

    question: str
    multihop: bool
    sub_questions: tuple[SubQuestion, ...]
    final_answer: str
    answer: str = ""
    """The gold answer, where the data has it."""
    id: str = ""
    src: str = ""
    """The set that it comes from, such as `squad.json`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is known of it: `meta_info` of the new layout."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not known here."""


def item_of(record: Mapping[str, Any]) -> MultiHopItem:
    """The item that a JSON object of either layout is.

    Raises:
        BadItemError: It lacks something, or something has the wrong type or number.
    """
    sub_questions = _sub_questions(record)
    multihop = record.get("multihop")
    if multihop is None:
        multihop = len(sub_questions) > 1
    if not isinstance(multihop, bool):
        raise BadItemError("wrong_type", f"has {multihop!r} in 'multihop', needs true or false")
    if multihop != (len(sub_questions) > 1):
        need = "needs two or more" if multihop else "needs exactly one, since it is not multi-hop"
        raise BadItemError("number_of_sub_questions", f"has {len(sub_questions)} sub-questions, {need}")
    for number, one in enumerate(sub_questions):
        if multihop and not one.long_answer:
            raise BadItemError("no_long_answer", f"has no 'long_answer' in sub_questions[{number}]")
    meta, extra = _meta(record)
    return MultiHopItem(
        question=text_of(record, "question", "question"),
        multihop=multihop,
        sub_questions=sub_questions,
        final_answer=_final_answer(record),
        answer=_text_or_nothing(record.get("answer")),
        id=_id(record),
        src=optional_text(record, "src"),
        meta=meta,
        extra=extra,
    )


def record_of(item: MultiHopItem, layout: Layout = "new") -> dict[str, Any]:
    """An item as a JSON object; what is empty and optional is left out.

    Args:
        item: The item.
        layout: Which one. `multihop` and `meta_info` have no place of their own in the old one; the number of
            sub-questions says the former, the latter is kept under its new name.
    """
    rest = {"id": item.id, "src": item.src, "meta_info": dict(item.meta)}
    kept = {name: value for name, value in rest.items() if value}
    if layout == "old":
        old = [_old_sub_question(one) for one in item.sub_questions]
        made = {"src": item.src, "question": item.question, "final_answer": item.final_answer, "answer": item.answer}
        return {**made, "sub_questions": old, **kept, **item.extra}
    new = [_new_sub_question(one) for one in item.sub_questions]
    answers = {"final_answer": item.final_answer, "answer": item.answer}
    return {
        "question": item.question, "multihop": item.multihop, "sub_questions": new, **answers, **kept, **item.extra,
    }  # fmt: skip


def long_answer(reasoning: str, answer: str) -> str:
    """`<reasoning>\\nAnswer:<answer>`.

    Raises:
        BadItemError: A part is empty, or holds a line that begins with `Answer:`.
    """
    return f"{_part(reasoning, 'reasoning')}\n{ANSWER}{_part(answer, 'answer')}"


def long_answer_parts(text: str) -> tuple[str, str]:
    """Reasoning and answer of a long answer; `long_answer` gives it back.

    Raises:
        BadItemError: It is none: `Answer:` does not begin exactly one of its lines, or a part is empty.
    """
    reasoning, answer = _split(text)
    return _part(reasoning, "reasoning"), _part(answer, "answer")


def final_answer(summary: str, answer: str) -> str:
    """`Summary:<summary>\\nAnswer:<answer>`, the final answer of a multi-hop item.

    Raises:
        BadItemError: A part is empty, or holds a line that begins with `Answer:` or `Summary:`.
    """
    return f"{SUMMARY}{_part(summary, 'summary')}\n{ANSWER}{_part(answer, 'answer')}"


def final_answer_parts(text: str) -> tuple[str, str]:
    """Summary and answer of a multi-hop item's final answer; `final_answer` gives it back.

    Raises:
        BadItemError: It is none: it does not begin with `Summary:`, `Answer:` does not begin exactly one of its lines,
            or a part is empty.
    """
    summary, answer = _split(text.strip())
    if not summary.startswith(SUMMARY):
        raise BadItemError("no_summary", f"has a final answer that does not begin with {SUMMARY!r}: {text[:60]!r}")
    return _part(summary.removeprefix(SUMMARY), "summary"), _part(answer, "answer")


def _split(text: str) -> tuple[str, str]:
    parts = text.split(f"\n{ANSWER}")
    if len(parts) != 2:
        raise BadItemError("no_answer_line", f"has {len(parts) - 1} lines that begin with {ANSWER!r}: {text[:60]!r}")
    return parts[0], parts[1]


def _part(text: str, what: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise BadItemError(f"empty_{what}", f"has an empty {what}")
    if any(line.startswith((ANSWER, SUMMARY)) for line in stripped.split("\n")):
        raise BadItemError("marker_in_text", f"has a line that begins with a marker in its {what}: {stripped[:60]!r}")
    return stripped


def _sub_questions(record: Mapping[str, Any]) -> tuple[SubQuestion, ...]:
    found = record.get("sub_questions")
    if found is None or found == []:
        raise BadItemError("no_sub_questions", "has no 'sub_questions'")
    if not isinstance(found, list):
        raise BadItemError("wrong_type", f"has a {type(found).__name__} in 'sub_questions', needs a list of objects")
    return tuple(_sub_question(one, number) for number, one in enumerate(found))


def _sub_question(record: Any, number: int) -> SubQuestion:
    if not isinstance(record, dict):
        raise BadItemError("wrong_type", f"has a {type(record).__name__} in sub_questions[{number}], needs an object")
    unanswerable = record.get("unanswerable")
    if not isinstance(unanswerable, bool | None):
        problem = f"has {unanswerable!r} in 'unanswerable' of sub_questions[{number}], needs true or false"
        raise BadItemError("wrong_type", problem)
    try:
        return SubQuestion(
            question=text_of(record, "question", "question"),
            paragraph=optional_text(record, "paragraph"),
            long_answer=optional_text(record, "long_answer"),
            unanswerable=bool(unanswerable),
            answer=_text_or_nothing(record.get("answer")),
            extra=_unread(record, _OF_SUB_QUESTION),
        )
    except BadItemError as error:
        raise BadItemError(error.reason, f"{error.problem} of sub_questions[{number}]") from None


def _final_answer(record: Mapping[str, Any]) -> str:
    if _MISSPELT not in record:
        return text_of(record, "final_answer", "final_answer")
    if "final_answer" in record:
        raise BadItemError("two_final_answers", f"has both 'final_answer' and {_MISSPELT!r}")
    return text_of(record, _MISSPELT, "final_answer")


def _id(record: Mapping[str, Any]) -> str:
    found = record.get("id")
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int)):
        raise BadItemError("wrong_type", f"has a {type(found).__name__} in 'id', needs a text or a number")
    return "" if found is None else str(found)


def _meta(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known beside the fields, and the fields that are not known.

    A `meta_info` that is no object is among the latter: it is only carried along.
    """
    extra = _unread(record, _OWN)
    given = {name: record[name] for name in ("meta_info", "meta") if record.get(name) is not None}
    if len(given) > 1:
        raise BadItemError("two_metas", "has both 'meta_info' and 'meta'")
    for name, value in given.items():
        if isinstance(value, dict):
            return value, extra
        extra[name] = value
    return {}, extra


def _unread(record: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Fields that are not known, and answers and ids that are no text, such as DROP's numbers: they stay as given."""
    values = {name: record[name] for name in ("answer", "id") if record.get(name) is not None}
    no_text = {name: value for name, value in values.items() if name in known and not isinstance(value, str)}
    return {name: value for name, value in record.items() if name not in known} | no_text


def _text_or_nothing(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _new_sub_question(one: SubQuestion) -> dict[str, Any]:
    made = {"question": one.question, "paragraph": one.paragraph, "long_answer": one.long_answer}
    rest = {"answer": one.answer, "unanswerable": one.unanswerable}
    return {**made, **{name: value for name, value in rest.items() if value}, **one.extra}


def _old_sub_question(one: SubQuestion) -> dict[str, Any]:
    made = {"question": one.question, "answer": one.answer, "long_answer": one.long_answer}
    return {**made, "paragraph": one.paragraph, "unanswerable": one.unanswerable, **one.extra}
