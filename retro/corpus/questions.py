"""Questions whose answers stand in the documentation, derived from its words and never invented.

Two kinds: from an object's first docstring sentence, its name masked, to the name; and from an expression in a
doctest to the value printed below it. Every question belongs to one document and follows it into its split.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict

MASK = "____"
TOPIC_PREFIX = "topic:"

_MIN_WORDS, _MAX_WORDS = 6, 40
_MIN_NAME_CHARACTERS = 3
_MAX_VALUE_CHARACTERS = 60
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])")
# `range(stop) -> range object`, `D.pop(k[,d]) -> v, ...`: how C functions show their parameters.
_SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)\s*($|->|--|:)")


class Question(TypedDict):
    """One item of a question file."""

    id: str
    question: str
    answers: list[str]
    kind: str
    document_ids: list[str]


def derive_questions(documents: Iterable[Mapping[str, str]]) -> list[Question]:
    """All questions of both kinds that have one answer and do not tell it, in document order.

    Args:
        documents: `{"id", "title", "text"}`; the text of an object starts with its qualified name, on a line of
            its own.
    """
    found = [question for document in documents for question in _of_document(document)]
    times = Counter(question["question"] for question in found)
    # A question asked of several documents has several right answers; all of its copies go.
    return [q for q in found if times[q["question"]] == 1 and not _tells_its_answer(q)]


def _tells_its_answer(question: Question) -> bool:
    return any(answer.casefold() in question["question"].casefold() for answer in question["answers"])


def _of_document(document: Mapping[str, str]) -> Iterator[Question]:
    identifier, title, text = document["id"], document["title"], document["text"]
    is_topic = identifier.startswith(TOPIC_PREFIX)
    if not is_topic:
        text = text.removeprefix(title).lstrip("\n")
        yield from _name_question(identifier, title, text)
    yield from _value_questions(identifier, f'help topic "{title}"' if is_topic else title, text)


def _name_question(identifier: str, title: str, text: str) -> Iterator[Question]:
    plain = title.rpartition(".")[2]
    sentence = first_sentence(text)
    masked = mask_name(sentence, title)
    words = masked.replace(MASK, " ").split()
    if _MIN_WORDS <= len(words) <= _MAX_WORDS and len(plain) >= _MIN_NAME_CHARACTERS and not plain.startswith("_"):
        yield Question(
            id=f"name:{identifier}",
            question=f"What in Python's library is documented with these words: {masked}",
            answers=list(dict.fromkeys([plain, title])),
            kind="name",
            document_ids=[identifier],
        )


def first_sentence(text: str) -> str:
    """The first sentence of a docstring on one line, signatures passed over; empty when there is none."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in paragraph.strip().split("\n")]
        while lines and _SIGNATURE.match(lines[0]):
            lines.pop(0)
        joined = " ".join(" ".join(lines).split())
        if joined:
            return "" if joined.startswith(">>>") else _SENTENCE_END.split(joined, maxsplit=1)[0]
    return ""


def mask_name(sentence: str, title: str) -> str:
    """Put MASK for a qualified name, and for its last part where it is a word of its own, in any case."""
    for name in (title, title.rpartition(".")[2]):
        sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, sentence, flags=re.IGNORECASE)
    return sentence


def _value_questions(identifier: str, where: str, text: str) -> Iterator[Question]:
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:
        return
    values: dict[str, set[str]] = {}
    for example in examples:
        values.setdefault(example.source.strip(), set()).add(example.want.strip())
    for number, (source, wanted) in enumerate(values.items()):
        value = next(iter(wanted))
        if len(wanted) == 1 and _is_expression(source) and _is_plain_value(value):
            yield Question(
                id=f"doctest:{identifier}:{number}",
                question=f"In Python's documentation of {where}, what does this print: {source}",
                answers=[value],
                kind="doctest",
                document_ids=[identifier],
            )


def _is_expression(source: str) -> bool:
    """Whether a doctest's source is one line that computes something; a bare name tells nothing."""
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return "\n" not in source and not isinstance(tree.body, ast.Name | ast.Constant)


def _is_plain_value(value: str) -> bool:
    one_line = "\n" not in value and 0 < len(value) <= _MAX_VALUE_CHARACTERS
    # `...` stands for what was left out, and an address is another one in every run.
    return one_line and "..." not in value and " at 0x" not in value and "Traceback" not in value
