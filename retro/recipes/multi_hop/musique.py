"""MuSiQue as items without full answers: multi-hop questions with their sub-questions."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retro.common.errors import DataError
from retro.common.json_files import json_items, read_text
from retro.qa.formats.item import BadItemError, id_of, text_of
from retro.qa.metrics.words import substring_match
from retro.recipes.multi_hop.answering import Golds, OpenItem
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.recipes.multi_hop.sources import Source

_REMEDY = "Fix the item, or set recipe.multi_hop.convert.skip_bad=true to leave such items out, counted"
_REFERENCE = re.compile(r"#(\d+)")
NOT_WELL_FORMED = ">>"
"""In a sub-question of MuSiQue: it is a relation, such as `Green >> performer`, and no question."""


def musique(path: Path, *, skip_bad: bool, seed: int) -> Source:
    """Questions of MuSiQue with their sub-questions; `#1` in one is the answer of the first.

    A sub-question of an unanswerable item whose paragraph was taken away gets another paragraph of the item, drawn by
    `seed`. Sub-questions that refer to it could not be asked: they are left out.

    Raises:
        DataError: The file cannot be read, or an item cannot be used.
    """
    source, ids = Source(items={"answerable": [], "unanswerable": []}), set[str]()

    def refuse(reason: str, error: DataError) -> None:
        if not skip_bad:
            raise error
        source.skipped[reason] += 1

    for one in json_items(path, read_text(path, "file to convert"), on_bad=refuse if skip_bad else None):
        try:
            answerable = _is_answerable(one.value)
            made = _of_musique(one.value, str(one.number), answerable, seed)
            if isinstance(made, OpenItem) and made.item.id in ids:
                raise BadItemError("id_twice", f"has the id of an item before it: {made.item.id!r}")
        except BadItemError as error:
            refuse(error.reason, DataError(path, f"{one.place} {error.problem}", _REMEDY))
            continue
        if isinstance(made, str):
            source.skipped[made] += 1
        else:
            ids.add(made.item.id)
            source.items["answerable" if answerable else "unanswerable"].append(made)
    return source


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
    steps = _steps(record)
    if any(NOT_WELL_FORMED in one.question for one in steps):
        return "sub_question_with_>>"
    subs, lost = _sub_questions(steps, _paragraphs(record), random.Random(f"{seed} {identity}"))
    if lost == answerable:
        return "paragraph_missing" if answerable else "no_paragraph_missing"
    if subs is None:
        return "no_other_paragraph"
    return "one_sub_question_left" if len(subs) < 2 else _open(record, identity, answerable, subs)


class _Step(NamedTuple):
    """A sub-question of MuSiQue."""

    question: str
    """May refer to answers of earlier ones, as `#1`."""
    answer: str
    support: Any
    """Number of its paragraph; None where that was taken away."""


def _steps(record: Mapping[str, Any]) -> list[_Step]:
    return [
        _Step(text_of(one, "question", "question"), text_of(one, "answer", "answer"), one.get("paragraph_support_idx"))
        for one in _objects(record, "question_decomposition")
    ]


def _sub_questions(
    steps: Sequence[_Step], paragraphs: Mapping[int, str], draw: random.Random
) -> tuple[tuple[SubQuestion, ...] | None, bool]:
    """The sub-questions that can be asked, None where a paragraph is needed that there is not; whether one is lost."""
    found, lost = list[SubQuestion](), set[int]()
    for place, step in enumerate(steps):
        referred = _references(step.question, place)
        if referred & lost:
            lost.add(place)
            continue
        unanswerable = step.support is None
        text = _other(paragraphs, step.answer, draw) if unanswerable else _supporting(paragraphs, step.support)
        if text is None:
            return None, True
        if unanswerable:
            lost.add(place)
        asked = _asked(step.question, {f"#{number + 1}": steps[number].answer for number in referred})
        answer = "" if unanswerable else step.answer
        found.append(
            SubQuestion(question=asked, paragraph=text, long_answer="", unanswerable=unanswerable, answer=answer)
        )
    return tuple(found), bool(lost)


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
        # The full set has most questions twice under one id, with and without all of their paragraphs.
        id=f"musique/{identity}{'' if answerable else '/neg'}",
        src="musique.json",
    )
    of_subs = tuple(((one.answer,),) if one.answer else () for one in subs)
    return OpenItem(item=item, golds=of_subs, final_golds=golds)


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
    """The earlier sub-questions whose answers a sub-question refers to. Any other number is text, as in `#1 hit`."""
    return {int(number) - 1 for number in _REFERENCE.findall(question)} & set(range(place))


def _asked(question: str, known: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: known.get(match[0], match[0]), question)


def _supporting(paragraphs: Mapping[int, str], number: Any) -> str:
    if not isinstance(number, int) or number not in paragraphs:
        raise BadItemError("no_passage", f"has the supporting paragraph {number!r}, which is not among its paragraphs")
    return paragraphs[number]


def _other(paragraphs: Mapping[int, str], answer: str, draw: random.Random) -> str | None:
    """A paragraph that does not hold an answer."""
    without = [text for _, text in sorted(paragraphs.items()) if not substring_match(text, [answer])]
    return draw.choice(without) if without else None
