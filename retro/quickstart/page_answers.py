"""The first act on the page: the table, the questions that only retrieval answers, then the failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from retro.evaluate.side_by_side import highlight
from retro.evaluate.tables import recall_text
from retro.evaluate.wording import percent
from retro.quickstart.html import note, table

if TYPE_CHECKING:
    from retro.quickstart.answers import Outcome

LABELS = {
    "closed_book": "closed-book",
    "with_passages": "with what the search found",
    "gold_passages": "with the right passage",
    "shuffled_passages": "with another question's passages",
}
_SHOWN = 12


def with_interval(value: Mapping[str, float]) -> str:
    """A share with its interval."""
    return f"{percent(value['mean'])} ({percent(value['low'])} to {percent(value['high'])})"


def answer_rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each setting: right answers, their share, F1, and how often the passages hold the right document."""
    found: list[tuple[str, ...]] = []
    for setting, label in LABELS.items():
        mine = act["settings"][setting]
        right = f"{mine['right']} of {act['questions']}"
        found.append(
            (label, right, with_interval(mine["substring_match"]), with_interval(mine["f1"]), recall_text(mine))
        )
    return found


ANSWER_HEADINGS = ("asked", "right", "substring match", "F1", "right document found")


def tests_in_words(act: Mapping[str, Any]) -> list[str]:
    """A sentence for each paired test."""
    lines = []
    for other, tests in act["with_passages_against"].items():
        p = tests["substring_match"]["p"]
        lines.append(
            f"{LABELS['with_passages']} against {LABELS[other]}: p = {p:.2g} "
            f"({tests['substring_match']['test']}, {act['questions']} questions, paired)"
        )
    return lines


def _list(title: str, outcomes: Sequence[Outcome], what: str) -> str:
    if not outcomes:
        return f"<section><h2>{title}</h2>{note('None.')}</section>"
    more = f" The first {_SHOWN} are shown." if len(outcomes) > _SHOWN else ""
    cards = "".join(_card(one) for one in outcomes[:_SHOWN])
    return f"<section><h2>{title}: {len(outcomes)}</h2>{note(what + more)}{cards}</section>"


def _card(one: Outcome) -> str:
    found = one.said["with_passages"]
    said = "".join(
        f"<tr><td>{LABELS[setting]}</td><td>{'right' if one.right[setting] else 'wrong'}</td>"
        f"<td>{escape(one.said[setting].prediction) or '(nothing)'}</td></tr>"
        for setting in ("closed_book", "with_passages")
    )
    passages = "".join(f'<p class="small">{highlight(one.text, found.answers)[0]}</p>' for one in found.passages)
    return (
        f'<div class="panel"><h3>{escape(found.question)}</h3>'
        f'<p class="small">Gold answer: {escape(" / ".join(found.answers))}</p>'
        f'<div class="scroll"><table><tbody>{said}</tbody></table></div>{passages}</div>'
    )


def answers_section(results: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The section as HTML.

    Args:
        results: As `results.json` has them.
        outcomes: The questions with their answers.
    """
    act = results["answers"]
    documents = act["documents"]
    only = [one for one in outcomes if one.right["with_passages"] and not one.right["closed_book"]]
    failed = [one for one in outcomes if not one.right["with_passages"]]
    asked = (
        f"{act['questions']} questions about {documents['sections']:,} sections of {documents['docstrings']:,} "
        "docstrings. Right: a gold answer stands in the answer as whole words. Intervals hold 95 % of resamples of the "
        "questions."
    )
    made = (
        f"{documents['made']:,} questions were made from the docstrings by two patterns, without looking at any answer "
        "of a model: the default value of a parameter, and the version in which something was added. Those about one "
        f"half of the documents are asked here (drawn with seed {results['seed']}); the number of passages was chosen "
        "on the other half. The search is BM25 over passages of up to 128 tokens; the best goes into the prompt."
    )
    return (
        f"<section><h2>1. A real model answers from documents that it never saw</h2>{note(asked)}"
        f"{table(ANSWER_HEADINGS, answer_rows(act))}{note('; '.join(tests_in_words(act)) + '.')}</section>"
        f"{_list('Answered only with retrieval', only, 'Wrong closed-book, right with the passages found.')}"
        f"{_list('Wrong with retrieval', failed, 'See whether the answer is in what the search found.')}"
        f"<section><h2>How the questions were made</h2>{note(made)}</section>"
    )
