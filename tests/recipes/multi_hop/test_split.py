"""What is held out for validation is not in training under another name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retro.recipes.multi_hop.items import MultiHopItem, item_of
from retro.recipes.multi_hop.split import held_out
from tests.recipes.multi_hop.samples import NEW, OLD


def on_both_sides(items: list[MultiHopItem], what: Callable[[MultiHopItem], str]) -> int:
    train, validation = held_out(items, 0.3, 1)
    assert len(train) + len(validation) == len(items)
    assert held_out(items, 0.3, 1) == (train, validation)
    assert held_out(items, 0.3, 2) != (train, validation)
    # Of 200 groups about 60 are drawn.
    assert 0.2 * len(items) < len(validation) < 0.4 * len(items)
    return len({what(one) for one in train} & {what(one) for one in validation})


def number_of(item: MultiHopItem) -> str:
    return "".join(filter(str.isdigit, item.question))


def single(question: str, paragraph: str, **more: Any) -> MultiHopItem:
    return item_of(OLD | {"question": question, "sub_questions": [{"question": "s", "paragraph": paragraph}]} | more)


def test_items_without_ids_that_ask_the_same_stay_together() -> None:
    asked = [item_of(NEW | {"question": text}) for n in range(200) for text in (f"Which of {n}?", f"which of the {n}")]
    assert on_both_sides(asked, number_of) == 0


def test_items_from_one_paragraph_stay_together_and_so_do_those_that_ask_the_same_of_another() -> None:
    # Item n and n + 1 share a paragraph, n + 1 and n + 2 a question: 200 groups of three.
    asked = [
        one
        for n in range(200)
        for one in (single(f"a {n}?", f"p {n}"), single(f"b {n}?", f"The P, {n}."), single(f"b {n}?", f"q {n}"))
    ]
    assert on_both_sides(asked, number_of) == 0


def test_what_was_made_of_a_question_stays_with_it() -> None:
    asked = [
        one
        for n in range(200)
        for one in (
            item_of(NEW | {"id": f"m/{n}", "question": f"m {n}?"}),
            item_of(NEW | {"id": f"m/{n}/neg", "question": f"m {n}?"}),
            # The paragraph of a negative is that of any other item: it joins nothing.
            single(f"s {n}?", "the same for all", id=f"m/{n}/neg/q1"),
        )
    ]
    assert on_both_sides(asked, number_of) == 0


def test_questions_without_a_word_are_told_apart() -> None:
    asked = [item_of(NEW | {"question": "?" * (n + 1)}) for n in range(200)]
    assert on_both_sides(asked, lambda one: one.question) == 0
