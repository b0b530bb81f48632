"""Single questions side by side: gold answers, what the model said in each setting, what it read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """An answer with its main metric, and whether that counts as right."""

    answer: Answer
    points: float
    right: bool


class Card(NamedTuple):
    """One question."""

    number: int
    group: str
    """Of `GROUPS`."""
    question: str
    golds: Sequence[str]
    said: Mapping[str, Said]
    """By setting."""
    passages: Sequence[tuple[Context, Markup]]
    """What was read, with gold answers marked, in the first setting that reads."""

    @property
    def answer_inside(self) -> bool:
        """Whether a passage holds a gold answer."""
        return any("<mark>" in marked for _, marked in self.passages)


@dataclass(frozen=True)
class Points:
    """The main metric of every answer."""

    metric: str
    values: Mapping[str, Sequence[Mapping[str, Any]]]
    """By setting."""

    def of(self, setting: str, number: int) -> float:
        """One answer's; 0 where it was not scored."""
        mine = self.values.get(setting, ())
        return float(mine[number].get(self.metric, 0)) if number < len(mine) else 0.0

    def group(self, number: int) -> str:
        """Of `GROUPS`, comparing the first setting that reads passages and closed-book."""
        reading = next((name for name in READING if name in self.values), "")
        given, closed = (self.of(name, number) >= RIGHT for name in (reading, "closed_book"))
        return {(True, True): "both", (True, False): "helped", (False, True): "hurt"}.get((given, closed), "neither")


def cards(run: RunSummary, shown: int) -> list[Card]:
    """The first `shown` questions of the file, and half as many later ones on which passages changed the outcome."""
    if not run.scores or not run.answers:
        return []
    points = Points(run.scores["metrics"][0], run.values)
    total = len(next(iter(run.answers.values())))
    return [_card(run, points, number) for number in _chosen(points, shown, total)]


def _chosen(points: Points, shown: int, total: int) -> Iterator[int]:
    yield from range(min(shown, total))
    left = shown // 2
    for number in range(shown, total):
        if left and points.group(number) in ("helped", "hurt"):
            left -= 1
            yield number


def _card(run: RunSummary, points: Points, number: int) -> Card:
    said = {
        name: Said(given[number], points.of(name, number), points.of(name, number) >= RIGHT)
        for name, given in run.answers.items()
    }
    one = next(iter(said.values())).answer
    read: Sequence[Context] = next((said[name].answer.passages for name in READING if name in said), ()) or one.passages
    passages = [(passage, highlight(passage.text, one.answers)) for passage in read]
    return Card(number + 1, points.group(number), one.question, one.answers, said, passages)


def highlight(text: str, golds: Sequence[str]) -> Markup:
    """Escaped text with gold answers in `<mark>` where they stand as whole words, in any case."""
    wanted = sorted({gold.strip() for gold in golds if gold.strip()}, key=len, reverse=True)
    if not wanted:
        return escape(text)
    pattern = "|".join(rf"(?<!\w){re.escape(gold)}(?!\w)" for gold in wanted)
    # The capturing group keeps what was found: odd pieces are the marks.
    pieces = re.split(f"({pattern})", text, flags=re.IGNORECASE)
    return Markup("").join(Markup("<mark>{}</mark>").format(p) if n % 2 else p for n, p in enumerate(pieces))
