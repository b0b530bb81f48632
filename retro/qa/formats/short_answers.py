"""Questions with short answers: SQuAD, BoolQ, NQ-open, TriviaQA and HotpotQA."""

from __future__ import annotations

from typing import Any

from retro.qa.formats.item import (
    BadItemError,
    Converted,
    Item,
    Options,
    id_of,
    optional_text,
    text_of,
    texts_of,
)
from retro.qa.layouts import golds_of_item
from retro.qa.question import Context, Question
from retro.qa.task import load_task


def _golds(task: str, item: Item, found: tuple[str, ...]) -> tuple[str, ...]:
    """Gold answers as evaluation reads them, by the task's layouts; `found` where none of them describes the item.

    What is learned and what is scored are then the same. Types were checked before: layouts take what they find, and
    pass over a plain text among objects, which counts here.
    """
    golds = golds_of_item(load_task(task), item) or []
    return tuple(golds) if set(found) <= set(golds) else found


def squad(item: Item, number: str, options: Options) -> list[Converted]:
    """A question of SQuAD 1.1 or 2.0 with its paragraph; in 2.0 it may have no answer.

    Its answers are objects with a `text`, or, as HuggingFace stores them, `{"text": [...]}`; where that list is empty
    and nothing says whether the question can be answered, it cannot, as in `squad_v2`.
    """
    answers = _golds("squad2.0", item, _squad_answers(item))
    impossible = item.get("is_impossible") is True or (not answers and "is_impossible" not in item)
    if not answers and not impossible:
        raise BadItemError("no_answer", "has no answer, and is not marked as unanswerable")
    question = Question(
        id=id_of(item, number, "id"),
        question=text_of(item, "question", "question"),
        answers=() if impossible else answers,
        contexts=(Context(optional_text(item, "title").replace("_", " "), text_of(item, "context", "passage")),),
        unanswerable=impossible,
    )
    # A paragraph without the answer supports nothing.
    return [Converted(question, gold=() if impossible else (0,))]


def _squad_answers(item: Item) -> tuple[str, ...]:
    value = item.get("answers")
    if value is None:
        raise BadItemError("no_answer", "has no 'answers'")
    texts = value.get("text") if isinstance(value, dict) else value
    if isinstance(texts, list):
        texts = [one.get("text") if isinstance(one, dict) else one for one in texts]
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise BadItemError("wrong_type", f"has {str(value)[:60]!r} in 'answers', needs objects with a 'text'")
    return tuple(dict.fromkeys(one.strip() for one in texts if one.strip()))


def boolq(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"question", "title", "answer": true or false, "passage"}`."""
    answer = item.get("answer")
    if not isinstance(answer, bool):
        problem = "has no 'answer'" if answer is None else f"has the answer {answer!r}, needs true or false"
        raise BadItemError("no_answer" if answer is None else "wrong_type", problem)
    question = Question(
        id=id_of(item, number, "id", "idx"),
        question=text_of(item, "question", "question"),
        answers=_golds("boolq", item, (str(answer),)),
        contexts=(Context(optional_text(item, "title"), text_of(item, "passage", "passage")),),
    )
    return [Converted(question, gold=(0,))]


def nq_open(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"question", "answer": [...]}`; no passages."""
    asked, answers = text_of(item, "question", "question"), texts_of(item, "answer")
    return [Converted(Question(id=id_of(item, number, "id"), question=asked, answers=answers))]


def triviaqa(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"QuestionId", "Question", "Answer": {"Value", "Aliases", "HumanAnswers"}}`; the value is learned, all count.

    What the question was found with are names of files of their own, so it has no passages here.
    """
    answer = item.get("Answer")
    if not isinstance(answer, dict):
        raise BadItemError("no_answer", "has no 'Answer'; the test part of TriviaQA is without")
    value = text_of(answer, "Value", "answer")
    others = [text for key in ("Aliases", "HumanAnswers") if answer.get(key) for text in texts_of(answer, key)]
    asked = text_of(item, "Question", "question")
    answers = _golds("tqa", item, tuple(dict.fromkeys((value, *others))))
    return [Converted(Question(id=id_of(item, number, "QuestionId"), question=asked, answers=answers))]


def hotpotqa(item: Item, number: str, options: Options) -> list[Converted]:
    """A question of HotpotQA's distractor setting with its ten paragraphs, those that support the answer marked.

    Both layouts in circulation are read: `"context": [[title, [sentence, ...]], ...]`, and the one with columns,
    `"context": {"title": [...], "sentences": [...]}`; `supporting_facts` likewise.
    """
    supporting = {title for title, _ in _pairs(item.get("supporting_facts") or [], "supporting_facts", "sent_id")}
    paragraphs = [
        Context(title, " ".join(sentence.strip() for sentence in sentences))
        for title, sentences in _pairs(item.get("context"), "context", "sentences")
    ]
    contexts = tuple(one for one in paragraphs if one.text)
    question = Question(
        id=id_of(item, number, "_id", "id"),
        question=text_of(item, "question", "question"),
        answers=(text_of(item, "answer", "answer"),),
        contexts=contexts,
    )
    return [Converted(question, gold=[place for place, one in enumerate(contexts) if one.title in supporting])]


def _pairs(value: Any, key: str, second: str) -> list[tuple[str, Any]]:
    """(title, what belongs to it) of each entry, from either layout."""
    if isinstance(value, dict):
        titles, others = value.get("title"), value.get(second)
        if not isinstance(titles, list) or not isinstance(others, list) or len(titles) != len(others):
            raise BadItemError("wrong_type", f"has columns of unlike length in {key!r}")
        value = [list(pair) for pair in zip(titles, others, strict=True)]
    good = isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value)
    if good and second == "sentences":
        good = all(isinstance(one[1], list) and all(isinstance(text, str) for text in one[1]) for one in value)
    if not good:
        raise BadItemError("no_passages" if value is None else "wrong_type", f"has {str(value)[:60]!r} in {key!r}")
    return [(str(title).strip(), rest) for title, rest in value]
