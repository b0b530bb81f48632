"""Public data sets with single-hop questions, as items without full answers: SQuAD 2.0, BoolQ, DROP."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retro.common.errors import DataError
from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import find_format
from retro.qa.layouts import read_task_questions
from retro.qa.question import Question
from retro.qa.task import load_task
from retro.recipes.multi_hop.answering import OpenItem
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.recipes.multi_hop.prompts import AnswerKind


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
        # Sets number their questions alike.
        id=f"{src.removesuffix('.json')}/{one.id}",
        src=src,
        meta={"title": passage.title} if passage.title else {},
    )
    of_sub = () if one.unanswerable else tuple(golds)
    return OpenItem(item=item, kind=kind, golds=(of_sub,), with_reasoning=kind != "plain")
