"""Public data sets as items without full answers: SQuAD 2.0, BoolQ, DROP, MuSiQue."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import json_items, read_text
from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import BadItemError, Options, id_of, text_of
from retro.qa.formats.registry import find_format
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.words import substring_match
from retro.qa.question import Question
from retro.qa.task import load_task
from retro.recipes.multi_hop.answering import Golds, OpenItem
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.recipes.multi_hop.prompts import AnswerKind

_REMEDY = "Fix the item, or set recipe.multi_hop.convert.skip_bad=true to leave such items out, counted"
_REFERENCE = re.compile(r"#(\d+)")
NOT_WELL_FORMED = ">>"
"""In a sub-question of MuSiQue: it is a relation, such as `Green >> performer`, and no question."""


@dataclass
class Source:
    """What a data set gives."""

    items: dict[str, list[OpenItem]] = field(default_factory=dict)
    """By part: `answerable`, `unanswerable`, or `items` where there is no such distinction."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Items left out, by reason."""


def squad(path: Path, *, skip_bad: bool) -> Source:
    """Questions of SQuAD 2.0 (1.1 has no unanswerable ones).

    Raises:
        DataError: The file cannot be read, or an item cannot be used.
    """
    found = convert_file(path, find_format("squad"), Options(), skip_bad=skip_bad)
    made = [_of_question(one, "squad.json", "plain", [(gold,) for gold in one.answers]) for one in found.questions]
    parts = {"answerable": False, "unanswerable": True}
    items = {
        name: [one for one in made if one.item.sub_questions[0].unanswerable == value] for name, value in parts.items()
    }
    return Source(items=items, skipped=found.skipped)


def boolq(path: Path, *, skip_bad: bool) -> Source:
    """Questions of BoolQ; the gold answer is yes or no.

    Raises:
        DataError: The file cannot be read, or an item cannot be used.
    """
    found = convert_file(path, find_format("boolq"), Options(), skip_bad=skip_bad)
    named = {"true": "yes", "false": "no"}
    made = [
        _of_question(one, "boolq.json", "yes_no", [(named.get(one.answers[0].lower(), one.answers[0]),)])
        for one in found.questions
    ]
    return Source(items={"items": made}, skipped=found.skipped)


def drop(path: Path, *, skip_bad: bool) -> Source:
    """Questions of DROP; a gold answer of several spans is said where all of them are.

    Raises:
        DataError: The file cannot be read, or an item cannot be used.
    """
    source = Source()

    def left_out(reason: str, error: DataError) -> None:
        source.skipped[reason] += 1

    found = read_task_questions(path, load_task("drop"), on_bad=left_out if skip_bad else None)
    made = [
        _of_question(one, "drop.json", "arithmetic", [tuple(group) for group in one.answer_groups]) for one in found
    ]
    source.items["items"] = made
    return source


def musique(path: Path, *, skip_bad: bool, seed: int) -> Source:
    """Questions of MuSiQue with their sub-questions; `#1` in one is the answer of the first.

    A sub-question of an unanswerable item whose paragraph was taken away gets another paragraph of the item, drawn by
    `seed`. Sub-questions that refer to it could not be asked: they are left out.

    Raises:
        DataError: The file cannot be read, or an item cannot be used.
    """
    source = Source(items={"answerable": [], "unanswerable": []})

    def refuse(reason: str, error: DataError) -> None:
        if not skip_bad:
            raise error
        source.skipped[reason] += 1

    for one in json_items(path, read_text(path, "file to convert"), on_bad=refuse if skip_bad else None):
        try:
            answerable = _is_answerable(one.value)
            made = _of_musique(one.value, str(one.number), answerable, seed)
        except BadItemError as error:
            refuse(error.reason, DataError(path, f"{one.place} {error.problem}", _REMEDY))
            continue
        if isinstance(made, str):
            source.skipped[made] += 1
        else:
            source.items["answerable" if answerable else "unanswerable"].append(made)
    return source


def drawn(items: Sequence[OpenItem], count: int | str, seed: int, name: str) -> list[OpenItem]:
    """So many of the items, or `all`, drawn by the seed, in the order of the file. All where there are not so many."""
    if count == "all" or int(count) >= len(items):
        return list(items)
    chosen = random.Random(f"{seed} {name}").sample(range(len(items)), int(count))
    return [items[place] for place in sorted(chosen)]


def _of_question(one: Question, src: str, kind: AnswerKind, golds: Sequence[tuple[str, ...]]) -> OpenItem:
    passage = one.contexts[0]
    answer = "" if one.unanswerable else ", ".join(golds[0])
    sub = SubQuestion(
        question=one.question,
        paragraph=passage.text,
        long_answer="",
        unanswerable=one.unanswerable,
        answer=answer,
    )
    item = MultiHopItem(
        question=one.question,
        multihop=False,
        sub_questions=(sub,),
        final_answer="",
        answer=answer,
        id=one.id,
        src=src,
        meta={"title": passage.title} if passage.title else {},
    )
    of_sub = () if one.unanswerable else tuple(golds)
    return OpenItem(item=item, kind=kind, golds=(of_sub,), with_reasoning=kind != "plain")


def _is_answerable(record: Mapping[str, Any]) -> bool:
    found = record.get("answerable", True)
    if not isinstance(found, bool):
        raise BadItemError("wrong_type", f"has {found!r} in 'answerable', needs true or false")
    return found


def _of_musique(record: Mapping[str, Any], number: str, answerable: bool, seed: int) -> OpenItem | str:
    """The item that a record is; or in a word why it is left out.

    Raises:
        BadItemError: It is malformed.
    """
    identity = id_of(record, number, "id")
    steps, paragraphs = _objects(record, "question_decomposition"), _paragraphs(record)
    questions = [text_of(one, "question", "question") for one in steps]
    answers = [text_of(one, "answer", "answer") for one in steps]
    if any(NOT_WELL_FORMED in one for one in questions):
        return "sub_question_with_>>"
    draw = random.Random(f"{seed} {identity}")
    subs: list[SubQuestion] = []
    lost: set[int] = set()
    for place, (question, answer, step) in enumerate(zip(questions, answers, steps, strict=True)):
        references = _references(question, place)
        if references & lost:
            lost.add(place)
            continue
        support = step.get("paragraph_support_idx")
        text = _supporting(paragraphs, support) if support is not None else _other(paragraphs, answer, draw)
        if text is None:
            return "no_other_paragraph"
        if support is None:
            lost.add(place)
        asked = _REFERENCE.sub(lambda match: answers[int(match[1]) - 1], question)
        subs.append(
            SubQuestion(
                question=asked,
                paragraph=text,
                long_answer="",
                unanswerable=support is None,
                answer="" if support is None else answer,
            )
        )
    if bool(lost) == answerable:
        return "paragraph_missing" if answerable else "no_paragraph_missing"
    if len(subs) < 2:
        return "one_sub_question_left"
    return _open(record, identity, answerable, tuple(subs))


def _open(record: Mapping[str, Any], identity: str, answerable: bool, subs: tuple[SubQuestion, ...]) -> OpenItem:
    answer = text_of(record, "answer", "answer") if answerable else ""
    aliases = record.get("answer_aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(one, str) for one in aliases):
        raise BadItemError("wrong_type", f"has {str(aliases)[:60]!r} in 'answer_aliases', needs a list of texts")
    golds: Golds = tuple((one,) for one in (answer, *aliases) if one.strip()) if answerable else ()
    item = MultiHopItem(
        question=text_of(record, "question", "question"),
        multihop=True,
        sub_questions=subs,
        final_answer="",
        answer=answer,
        id=identity,
        src="musique.json",
    )
    of_subs = tuple(((one.answer,),) if one.answer else () for one in subs)
    return OpenItem(item=item, golds=of_subs, final_golds=golds, unknown=not answerable)


def _objects(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = record.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise BadItemError("wrong_type", f"has {str(found)[:60]!r} in {key!r}, needs a list of objects")
    return found


def _paragraphs(record: Mapping[str, Any]) -> dict[int, str]:
    """Title and text of each paragraph, by its number."""
    found: dict[int, str] = {}
    for one in _objects(record, "paragraphs"):
        number = one.get("idx")
        if not isinstance(number, int) or isinstance(number, bool) or number in found:
            raise BadItemError("wrong_type", f"has {number!r} in 'idx' of a paragraph, needs a number of its own")
        title = str(one.get("title") or "").strip()
        text = text_of(one, "paragraph_text", "passage")
        found[number] = f"{title}: {text}" if title else text
    return found


def _references(question: str, place: int) -> set[int]:
    """The earlier sub-questions whose answers a sub-question refers to."""
    found = {int(number) - 1 for number in _REFERENCE.findall(question)}
    wrong = [one for one in found if not 0 <= one < place]
    if wrong:
        raise BadItemError("bad_reference", f"has '#{wrong[0] + 1}' in sub-question {place + 1}: {question[:60]!r}")
    return found


def _supporting(paragraphs: Mapping[int, str], number: Any) -> str:
    if not isinstance(number, int) or number not in paragraphs:
        raise BadItemError("no_passage", f"has the supporting paragraph {number!r}, which is not among its paragraphs")
    return paragraphs[number]


def _other(paragraphs: Mapping[int, str], answer: str, draw: random.Random) -> str | None:
    """A paragraph that does not hold an answer."""
    without = [text for _, text in sorted(paragraphs.items()) if not substring_match(text, [answer])]
    return draw.choice(without) if without else None
