"""The tables of one model, as data: the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retro.common.terminal import Cell, Table
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS, Quadrant
from retro.report.format import span
from retro.report.tables import new_table

NONE = "–"
WORDS: Mapping[Quadrant, str] = {
    "both": "both right",
    "memory": "only memory right",
    "context": "only context right",
    "neither": "neither right",
}
"""Quadrants, in words."""


def words_of(condition: str) -> str:
    """A condition in words."""
    return condition.replace("_", "-" if condition == CLOSED_BOOK else " ")


def cell(found: Mapping[str, Any] | None) -> str:
    """`62.5 (45.3–77.1) 20/32`: a share in percent with its interval and its numbers; a dash where there is none."""
    if found is None or found["share"] is None:
        return NONE
    return f"{span({**found, 'mean': found['share']})} {found['count']}/{found['of']}"


def mean_cell(found: Mapping[str, Any]) -> str:
    """`−0.12 (−0.20 to −0.05) 32`: a mean with its interval and count; a dash where there is no value."""
    if found["mean"] is None:
        return NONE
    mean, low, high = (f"{found[key]:.2f}".replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}) {found['count']}"


def tables(found: Mapping[str, Any]) -> list[Table]:
    """All tables of one model."""
    made = [_accuracy(found), _flips(found), _sides(found), _clash(found), _inside(found), _abstains(found)]
    made += [_faithful(found), *([_confidence(found)] if found["closed_book"]["confidence"] else [])]
    # Where what is right is not known, such as of ConflictQA's sentences, some have nothing to say.
    return [one for one in made if any(_has_number(cells) for cells, _ in one.rows)]


def _has_number(cells: Sequence[Cell]) -> bool:
    return any("/" in str(one) or "(" in str(one) for one in cells[1:])


def _accuracy(found: Mapping[str, Any]) -> Table:
    title = "Right answers, and quadrants of closed-book and each condition"
    table = new_table(title, "condition", right=("right", *[WORDS[one] for one in QUADRANTS]))
    table.add_row(words_of(CLOSED_BOOK), cell(found["closed_book"]["right"]), *[""] * len(QUADRANTS))
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), cell(one["right"]), *[cell(one["quadrants"][part]) for part in QUADRANTS])
    return table


def _flips(found: Mapping[str, Any]) -> Table:
    names = ("lost", "gained", "resistance", "correction")
    table = new_table("From closed-book to each condition", "condition", right=names)
    table.caption = (
        "Lost: right closed-book and wrong with passages, of all; gained: the reverse. Resistance: of the answers that "
        "were right, those that stay so. Correction: of the wrong ones, those that become right."
    )
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), *[cell(one["flips"][part]) for part in names])
    return table


def _sides(found: Mapping[str, Any]) -> Table:
    right = ("original answer", "other answer", "M_R, all", "M_R, known")
    table = new_table("Which side answers take", "condition", "supports", right=right)
    table.caption = (
        "M_R, the memorisation ratio: of the answers with one of the two, the share with the original; known: where "
        "the closed-book answer has it."
    )
    for name, one in found["conditions"].items():
        ratio = one.get("memorisation_ratio", {})
        cells = [one["original"], one["counter"], ratio.get("all"), ratio.get("known")]
        table.add_row(words_of(name), one["supports"], *map(cell, cells))
    return table


def _clash(found: Mapping[str, Any]) -> Table:
    parts = ("context_bias", "prior_bias", "one_right")
    table = new_table(
        "When memory and passages clash (ClashEval)", "condition", right=[one.replace("_", " ") for one in parts]
    )
    table.caption = (
        "Context bias: wrong although memory was right and the passages were not. Prior bias: wrong although the "
        "passages were right and memory was not. One right: right where exactly one of them is."
    )
    shown = {words_of(name): one["clash"] for name, one in found["conditions"].items() if "clash" in one}
    for name, rates in (shown | {"all of these": found["clash"]}).items():
        table.add_row(name, *[cell(rates[part]) for part in parts], style="" if name in shown else "bold")
    return table


def _inside(found: Mapping[str, Any]) -> Table:
    title = f"Right answers inside each quadrant of closed-book and {words_of(found['quadrants_of'])}"
    table = new_table(title, "condition", right=[WORDS[one] for one in QUADRANTS])
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), *[cell(one["right_inside"][part]) for part in QUADRANTS])
    return table


def _abstains(found: Mapping[str, Any]) -> Table:
    right = ("abstains", "strict word", "where memory and context are wrong")
    table = new_table("Answers that say there is none", "condition", right=right)
    for name, one in {CLOSED_BOOK: found["closed_book"], **found["conditions"]}.items():
        table.add_row(words_of(name), *[cell(one["abstains"][part]) for part in ("all", "strict", "neither")])
    return table


def _faithful(found: Mapping[str, Any]) -> Table:
    table = new_table("Answers that say what the passages do (FaithEval)", "condition", right=("strict", "non-strict"))
    table.caption = (
        "The answer that the passages support; unknown where they support none; conflict where they support both. "
        "Strict: without the other answer, or with the one word that is asked for."
    )
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), *[cell(one["faithful"][part]) for part in ("strict", "non_strict")])
    return table


def _confidence(found: Mapping[str, Any]) -> Table:
    right = ("right answer", "original", "other", "own answer", "surer answer right")
    table = new_table("Mean log-probability of a token of each answer, in nats", "condition", right=right)
    table.caption = (
        "With intervals and numbers of answers. Surer answer right: accuracy of the closed-book answer or the one with "
        "passages, whichever the model finds likelier (ClashEval)."
    )
    for name, one in {CLOSED_BOOK: found["closed_book"], **found["conditions"]}.items():
        sure = one["confidence"]
        last = NONE if name == CLOSED_BOOK else cell(sure["surer_answer_right"])
        roles = ("gold", "original", "counter", "answer")
        table.add_row(words_of(name), *[mean_cell(sure["mean"][role]) for role in roles], last)
    return table
