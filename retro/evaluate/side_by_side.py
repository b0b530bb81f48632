"""The page's section that shows single questions: gold answer, what the model said in each setting, what it
read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from retro.common.answers import Answer
from retro.common.qa_data import Context
from retro.evaluate.measured import color_of, lacking
from retro.evaluate.metrics import METRICS
from retro.evaluate.run_summary import RunSummary
from retro.evaluate.wording import percent, setting_name

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
    metric = run.scores["metrics"][0]
    total = len(next(iter(run.answers.values())))
    chosen = list(_chosen(run.answers, metric, shown, total))
    groups = {number: group_of(run.answers, metric, number) for number in chosen}
    cards = "".join(_card(run.answers, metric, number, groups[number]) for number in chosen)
    first = min(shown, total)
    later = len(chosen) - first
    more = f", then {later} later ones on which passages changed the outcome" if later else ""
    return (
        f'{head}<p class="note">The first {first} of {total:,} questions in the order of the file, not chosen for '
        f"their looks{more}. A gold answer is <mark>marked</mark> where it stands in a passage.</p>"
        f"{_filters(list(groups.values()))}{cards}</section>"
    )


def group_of(answers: Mapping[str, Sequence[Answer]], metric: str, number: int) -> str:
    """`helped`, `hurt`, `both` or `neither`, comparing with passages and closed-book."""
    given, closed = (
        name in answers and _score(answers[name][number], metric) >= _RIGHT for name in ("with_passages", "closed_book")
    )
    return {(True, True): "both", (True, False): "helped", (False, True): "hurt"}.get((given, closed), "neither")


def _score(answer: Answer, metric: str) -> float:
    return METRICS[metric](answer.prediction, answer.answers)


def _chosen(answers: Mapping[str, Sequence[Answer]], metric: str, shown: int, total: int) -> Iterator[int]:
    yield from range(min(shown, total))
    left = shown // 2
    for number in range(shown, total):
        if left and group_of(answers, metric, number) in ("helped", "hurt"):
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


def _card(answers: Mapping[str, Sequence[Answer]], metric: str, number: int, group: str) -> str:
    mine = {name: given[number] for name, given in answers.items()}
    one = next(iter(mine.values()))
    gold = "".join(f"<b>{escape(answer)}</b>" for answer in one.answers)
    said = "".join(_said(name, answer, metric) for name, answer in mine.items())
    read = mine.get("with_passages", one)
    return (
        f'<article class="q {group}"><header><span class="number">{number + 1}</span><h3>{escape(one.question)}</h3>'
        f'</header><p class="gold"><span class="small">gold</span> {gold}</p><div class="said">{said}</div>'
        f"{_passages(read)}</article>"
    )


def _said(name: str, answer: Answer, metric: str) -> str:
    value = _score(answer, metric)
    verdict = '<span class="right">✓ right</span>' if value >= _RIGHT else '<span class="wrong">✗ wrong</span>'
    if metric == "f1":
        verdict = verdict.replace("</span>", f", F1 {percent(value, 0)}</span>")
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
