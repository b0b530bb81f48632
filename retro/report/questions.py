"""The page's section that shows single questions: gold answer, what the model said in each setting, what it
read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from retro.qa.answer_files import Answer
from retro.qa.question import Context
from retro.report.format import READING, metric_name, percent, setting_name
from retro.report.results import color_of, lacking
from retro.report.run_summary import RunSummary

# From here on an answer counts as right on this page, whatever the metric.
_RIGHT = 0.5
_GROUPS = {
    "all": "all shown",
    "helped": "right only with passages",
    "hurt": "right only closed-book",
    "both": "right both ways",
    "neither": "wrong both ways",
}


def section(run: RunSummary, shown: int) -> str:
    """The first questions of the file, and after them others on which the settings disagree."""
    head = '<section id="questions"><h2>Questions side by side</h2>'
    if not run.scores or not run.answers:
        return f"{head}{lacking('No scored answers in this run.')}</section>"
    points = Points(run.scores["metrics"][0], run.values)
    total = len(next(iter(run.answers.values())))
    chosen = list(_chosen(points, shown, total))
    groups = {number: points.group(number) for number in chosen}
    cards = "".join(_card(run.answers, points, number, groups[number]) for number in chosen)
    first = min(shown, total)
    later = len(chosen) - first
    more = f", then {later} later ones on which passages changed the outcome" if later else ""
    return (
        f'{head}<p class="note">The first {first} of {total:,} questions in the order of the file, not chosen for '
        f"their looks{more}. A gold answer is <mark>marked</mark> where it stands in a passage.</p>"
        f"{_filters(list(groups.values()))}{cards}</section>"
    )


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
        """`helped`, `hurt`, `both` or `neither`, comparing the first setting that reads passages and closed-book."""
        reading = next((name for name in READING if name in self.values), "")
        given, closed = (self.of(name, number) >= _RIGHT for name in (reading, "closed_book"))
        return {(True, True): "both", (True, False): "helped", (False, True): "hurt"}.get((given, closed), "neither")


def _chosen(points: Points, shown: int, total: int) -> Iterator[int]:
    yield from range(min(shown, total))
    left = shown // 2
    for number in range(shown, total):
        if left and points.group(number) in ("helped", "hurt"):
            left -= 1
            yield number


def _filters(groups: Sequence[str]) -> str:
    counts = {"all": len(groups)} | {name: groups.count(name) for name in _GROUPS if name != "all"}
    inputs = "".join(
        f'<input class="filters" type="radio" name="show" id="show-{name}"{" checked" if name == "all" else ""}>'
        for name in _GROUPS
    )
    labels = "".join(f'<label for="show-{name}">{words} · {counts[name]}</label>' for name, words in _GROUPS.items())
    return f'{inputs}<div class="filter-row">{labels}</div>'


def _card(answers: Mapping[str, Sequence[Answer]], points: Points, number: int, group: str) -> str:
    mine = {name: given[number] for name, given in answers.items()}
    one = next(iter(mine.values()))
    gold = "".join(f"<b>{escape(answer)}</b>" for answer in one.answers)
    said = "".join(_said(name, answer, points.metric, points.of(name, number)) for name, answer in mine.items())
    read = next((mine[name] for name in READING if name in mine and mine[name].passages), one)
    return (
        f'<article class="q {group}"><header><span class="number">{number + 1}</span><h3>{escape(one.question)}</h3>'
        f'</header><p class="gold"><span class="small">gold</span> {gold}</p><div class="said">{said}</div>'
        f"{_passages(read)}</article>"
    )


def _said(name: str, answer: Answer, metric: str, value: float) -> str:
    verdict = '<span class="right">✓ right</span>' if value >= _RIGHT else '<span class="wrong">✗ wrong</span>'
    if 0 < value < 1:
        verdict = verdict.replace("</span>", f", {metric_name(metric)} {percent(value, 0)}</span>")
    text = f"<p>{escape(answer.prediction)}</p>" if answer.prediction else '<p class="nothing">no answer</p>'
    if answer.skipped:
        text = '<p class="nothing">the question did not fit</p>'
    head = f'<div class="who"><span>{escape(setting_name(name))}</span>{verdict}</div>'
    return f'<div class="c{color_of(name)}">{head}{text}</div>'


def _passages(answer: Answer) -> str:
    if not answer.passages:
        return ""
    body = "".join(_passage(passage, answer.answers) for passage in answer.passages)
    plural = "passage" if len(answer.passages) == 1 else "passages"
    holds = any(highlight(p.text, answer.answers)[1] for p in answer.passages)
    tag = ' <span class="tag">answer inside</span>' if holds else ""
    return f"<details><summary>{len(answer.passages)} {plural} it read{tag}</summary>{body}</details>"


def _passage(passage: Context, golds: Sequence[str]) -> str:
    text, _ = highlight(passage.text, golds)
    name = passage.document_id if passage.document_id != passage.title else ""
    facts = [f"<b>{escape(passage.title)}</b>" if passage.title else "", f"<code>{escape(name)}</code>" if name else ""]
    facts.append(f"similarity {passage.score:.3f}" if passage.score else "")
    facts.append(f"row {passage.row:,}" if passage.row >= 0 else "")
    line = " · ".join(fact for fact in facts if fact)
    return f'<div class="passage"><div class="from">{line}</div><p>{text}</p></div>'


def highlight(text: str, golds: Sequence[str]) -> tuple[str, int]:
    """Escaped text with gold answers marked where they stand as whole words, in any case.

    Returns:
        The HTML and the number of marks.
    """
    wanted = sorted({gold.strip() for gold in golds if gold.strip()}, key=len, reverse=True)
    if not wanted:
        return escape(text), 0
    pattern = "|".join(rf"(?<!\w){re.escape(gold)}(?!\w)" for gold in wanted)
    # The capturing group keeps what was found: odd pieces are the marks.
    pieces = re.split(f"({pattern})", text, flags=re.IGNORECASE)
    html = "".join(f"<mark>{escape(p)}</mark>" if n % 2 else escape(p) for n, p in enumerate(pieces))
    return html, len(pieces) // 2
