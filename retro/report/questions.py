"""Single questions side by side: gold answers, what the model said in each setting, what it read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from markupsafe import Markup, escape

from retro.common.statistics import RIGHT
from retro.qa.answer_files import Answer
from retro.qa.question import Context
from retro.report.format import READING
from retro.report.run_summary import RunSummary

GROUPS = {
    "helped": "right only with passages",
    "hurt": "right only closed-book",
    "both": "right both ways",
    "neither": "wrong both ways",
}
"""Outcomes of a question, in words."""


class Said(NamedTuple):
    """An answer with its main metric."""

    answer: Answer
    points: float

    @property
    def right(self) -> bool:
        """Whether it counts as right."""
        return self.points >= RIGHT


@dataclass(frozen=True)
class Card:
    """One question."""

    number: int
    said: Mapping[str, Said]
    """By setting."""

    @property
    def asked(self) -> Answer:
        """Any of the answers: all have the question and the gold answers."""
        return next(iter(self.said.values())).answer

    @property
    def group(self) -> str:
        """Of `GROUPS`, comparing the first setting that reads passages and closed-book."""
        first = next((name for name in READING if name in self.said), "")
        given, closed = (name in self.said and self.said[name].right for name in (first, "closed_book"))
        return {(True, True): "both", (True, False): "helped", (False, True): "hurt"}.get((given, closed), "neither")

    @cached_property
    def passages(self) -> list[tuple[Context, Markup]]:
        """What was read, gold answers marked, in the first setting that reads any."""
        readers = (self.said[name].answer for name in READING if name in self.said)
        read = next((answer.passages for answer in readers if answer.passages), self.asked.passages)
        return [(passage, highlight(passage.text, self.asked.answers)) for passage in read]

    @property
    def answer_inside(self) -> bool:
        """Whether a passage holds a gold answer."""
        return any("<mark>" in marked for _, marked in self.passages)


def cards(run: RunSummary, shown: int) -> list[Card]:
    """The first `shown` questions of the file, and half as many later ones on which passages changed the outcome."""
    if not run.scores or not run.answers:
        return []
    metric = run.scores["metrics"][0]
    said = [
        [Said(answer, float(points.get(metric, 0))) for answer, points in zip(run.answers[name], scored, strict=True)]
        for name, scored in run.values.items()
    ]
    found = [Card(n, dict(zip(run.values, each, strict=True))) for n, each in enumerate(zip(*said, strict=True), 1)]
    changed = (card for card in found[shown:] if card.group in ("helped", "hurt"))
    return [*found[:shown], *islice(changed, shown // 2)]


def highlight(text: str, golds: Sequence[str]) -> Markup:
    """Escaped text with gold answers in `<mark>` where they stand as whole words, in any case."""
    wanted = sorted({gold.strip() for gold in golds if gold.strip()}, key=len, reverse=True)
    if not wanted:
        return escape(text)
    pattern = "|".join(rf"(?<!\w){re.escape(gold)}(?!\w)" for gold in wanted)
    # The capturing group keeps what was found: odd pieces are the marks.
    pieces = re.split(f"({pattern})", text, flags=re.IGNORECASE)
    return Markup("").join(Markup("<mark>{}</mark>").format(p) if n % 2 else p for n, p in enumerate(pieces))
