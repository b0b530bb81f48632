"""What stands in a batch: no pair meets another positive of its own document, or its own text."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from retro.common.errors import ConfigError
from retro.recipes.dense_retriever.pairs import Pair, PairPassage
from retro.recipes.dense_retriever.training.batches import (
    CropBatches,
    PairBatches,
    pair_keys,
    plan_batches,
    refused_keys,
)


def pair(number: int, document: str, text: str = "", negatives: tuple[PairPassage, ...] = ()) -> Pair:
    positive = PairPassage(id=f"{document}#{number}", title="T", text=text or f"text {number}")
    return Pair(id=str(number), question=f"q{number}?", document=document, positive=positive, negatives=negatives)


def test_two_pairs_of_a_document_or_with_equal_passages_are_never_in_one_batch() -> None:
    pairs = [pair(n, f"d{n // 2}") for n in range(8)] + [pair(8, "x", "same"), pair(9, "y", "same ")]
    plan = plan_batches([pair_keys(one) for one in pairs], 4, 708, epochs=20)
    for rows in plan.rows_SB.tolist():
        assert len({pairs[row].document for row in rows}) == 4
        assert not {8, 9} <= set(rows)
    assert plan.deferred > 0
    assert plan.steps * 4 + plan.left_out == 20 * 10


def test_batches_are_those_of_the_seed_and_every_pair_is_once_in_an_epoch() -> None:
    keys = [(number,) for number in range(10)]
    plan = plan_batches(keys, 3, 1, epochs=2)
    assert plan.rows_SB.tolist() == plan_batches(keys, 3, 1, steps=6).rows_SB.tolist()
    assert plan.rows_SB.tolist() != plan_batches(keys, 3, 2, epochs=2).rows_SB.tolist()
    assert len(set(plan.rows_SB[:3].ravel().tolist())) == 9
    assert (plan.steps, plan.left_out, plan.deferred) == (6, 2, 0)


def test_half_an_epoch_is_half_of_its_batches() -> None:
    assert plan_batches([(number,) for number in range(12)], 2, 1, epochs=1.5).steps == 9


def test_a_batch_larger_than_what_differs_is_refused_with_the_number_that_does() -> None:
    keys = [("d1",), ("d1",), ("d2",)]
    with pytest.raises(ConfigError, match="batch_size = 3: needs at most 2 here: so many of the 3 pairs"):
        plan_batches(keys, 3, 1)


def batches(pairs: list[Pair], rows: list[list[int]], **settings: object) -> PairBatches:
    import numpy as np

    from retro.recipes.dense_retriever.training.batches import Plan

    own = {"seed": 1, "query_prefix": "query: ", "passage_prefix": "passage: ", "title": True}
    return PairBatches(pairs=pairs, plan=Plan(np.array(rows), 0, 0), **(own | settings))  # type: ignore[arg-type]


def test_prefixes_and_titles_stand_where_the_embedder_puts_them() -> None:
    found = batches([pair(0, "a"), pair(1, "b")], [[1, 0]]).columns(0)
    assert found == {"question": ["query: q1?", "query: q0?"], "positive": ["passage: T text 1", "passage: T text 0"]}


def test_a_hard_negative_that_may_answer_another_question_of_the_batch_is_masked_and_counted() -> None:
    of_b, equal, fine = (
        PairPassage(id="b#7", text="other part of b"),
        PairPassage(id="z#1", text="text 1"),
        PairPassage(id="y#1", text="fine"),
    )
    pairs = [pair(0, "a", negatives=(of_b, equal, fine)), pair(1, "b"), pair(2, "c")]
    made = batches(pairs, [[0, 1], [0, 2]], negatives=1, pool=lambda _: [one.negatives for one in pairs])
    found = made.columns(0)
    # The second has none of its own, and gets the passage of the pair that is not in the batch.
    assert found["negative_1"] == ["passage: fine", "passage: T text 2"]
    assert (made.counts.hard, made.counts.random, made.counts.masked) == (1, 1, 2)


def test_no_negative_is_another_positive_of_a_question_of_the_batch() -> None:
    other = Pair(id="9", question="Q0", document="z", positive=PairPassage(id="z#0", text="second"))
    hard = (PairPassage(id="x#1", text="second"), PairPassage(id="z#4", text="part of z"))
    pairs = [pair(0, "a", negatives=hard), other, pair(2, "c"), pair(3, "d")]
    for seed in range(10):
        made = batches(pairs, [[0, 2]], seed=seed, negatives=1, pool=lambda _: [one.negatives for one in pairs])
        assert made.columns(0)["negative_1"] == ["passage: T text 3"] * 2
        assert made.counts.masked == 2


def test_a_negative_of_a_document_that_is_named_by_its_title_is_masked() -> None:
    hard = (PairPassage(id="1234", title="b", text="part of b"),)
    pairs = [pair(0, "a", negatives=hard), pair(1, "b"), pair(2, "c")]
    made = batches(pairs, [[0, 1]], negatives=1, pool=lambda _: [one.negatives for one in pairs])
    assert made.columns(0)["negative_1"] == ["passage: T text 2"] * 2


def test_a_hard_negative_is_masked_by_the_document_that_it_names_itself() -> None:
    # As DPR has it: ids of passages are numbers, and name no document.
    of_b, fine = PairPassage(id="12", text="more of b", document="b"), PairPassage(id="13", text="fine", document="z")
    pairs = [pair(0, "a", negatives=(of_b, fine)), pair(1, "b", negatives=(fine,))]
    made = batches(pairs, [[0, 1]], negatives=1, pool=lambda _: [one.negatives for one in pairs])
    assert made.columns(0)["negative_1"] == ["passage: fine", "passage: fine"]
    assert made.counts.masked == 1


def met(pairs: list[Pair]) -> set[tuple[int, ...]]:
    """Which are together in batches of two, over 200 epochs."""
    plan = plan_batches([pair_keys(one) for one in pairs], 2, 1, refused=refused_keys(pairs), epochs=200)
    return {tuple(sorted(rows)) for rows in plan.rows_SB.tolist()}


def test_another_positive_of_a_question_is_never_beside_it_in_a_batch() -> None:
    # Pair 0 asks what pair 1 asks, whose positive is of the document of pair 2; pair 4 has the text of pair 1.
    first = pair(0, "a")
    pairs = [first, replace(pair(1, "b"), question="Q0"), pair(2, "b"), pair(3, "c"), pair(4, "d", "text 1"),
             pair(5, "e"), pair(6, "f")]  # fmt: skip
    together = set(combinations(range(7), 2)) - {(0, 1), (0, 2), (0, 4), (1, 2), (1, 4)}
    assert met(pairs) == together
    # Also where the other positive has no pair.
    alone = replace(first, other_positives=(PairPassage(id="x", text="more", document="c"),))
    assert met([alone, *pairs[1:]]) == together - {(0, 3), (1, 3)}
    with pytest.raises(ConfigError, match="batch_size = 3: needs at most 1 here: so many of the 3 pairs"):
        plan_batches([pair_keys(one) for one in pairs[:3]], 3, 1, refused=refused_keys(pairs[:3]))


def test_the_only_passage_that_may_be_drawn_is_found_among_many() -> None:
    pairs = [*(pair(n, "a") for n in range(5000)), pair(5000, "b")]
    made = batches(pairs, [[0]], negatives=1, pool=lambda _: [()] * len(pairs))
    assert made.columns(0)["negative_1"] == ["passage: T text 5000"]


def test_a_share_of_the_negatives_is_random() -> None:
    hard = tuple(PairPassage(id=f"h{n}", text=f"hard {n}") for n in range(4))
    pairs = [pair(n, f"d{n}", negatives=hard) for n in range(20)]
    made = batches(
        pairs, [[n, n + 1] for n in range(19)], negatives=2, hard_share=0.5, pool=lambda _: [hard] * len(pairs)
    )
    for step in range(19):
        assert made.columns(step) == made.columns(step)
    assert 0.3 < made.counts.hard / (made.counts.hard + made.counts.random) < 0.7


def test_random_negatives_that_nobody_can_give_are_refused() -> None:
    made = batches([pair(0, "a"), pair(1, "b")], [[0, 1]], negatives=1, pool=lambda _: [(), ()])
    with pytest.raises(ConfigError, match="no passages are left"):
        made.columns(0)


def test_crops_of_a_step_are_the_same_whenever_they_are_asked_for() -> None:
    texts = [" ".join(f"{number}w{place}" for place in range(20)) for number in range(4)]
    made = CropBatches(
        texts=lambda rows: [texts[row] for row in rows], plan=plan_batches([(n,) for n in range(4)], 2, 1, epochs=3),
        seed=1, passages=4, smallest=0.05, largest=0.5, deletion=0.1,
    )  # fmt: skip
    assert made.columns(3) == made.columns(3)
    row = int(made.plan.rows_SB[3, 0])
    assert made.columns(3)["question"][0].split()[0].startswith(f"{row}w")
