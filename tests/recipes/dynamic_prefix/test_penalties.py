"""Penalties on encoded documents: values and gradients by hand, how they are named, and that they work on a toy."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.common.errors import ConfigError
from retro.qa.question import Context, Question
from retro.recipes.dynamic_prefix.joint.config import PenaltyConfig
from retro.recipes.dynamic_prefix.joint.penalties import (
    PENALTIES,
    EncodedDocuments,
    WeightedPenalties,
    document_groups,
    group_means,
    group_of,
    group_probe,
)


def rows(*values: float, groups: tuple[int, ...] = (0, 0, 1, 1)) -> tuple[Tensor, EncodedDocuments]:
    """Documents of one token whose states are numbers."""
    states = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1).requires_grad_()
    real = torch.ones(len(values), 1, dtype=torch.bool)
    return states, EncodedDocuments(states_nNE=states, real_Nn=real, groups_N=torch.tensor(groups))


def slopes(value: Tensor, states: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(value, states)
    return found.flatten().tolist()


def test_the_distance_of_group_means_by_hand() -> None:
    # Means 1 and 5. Each state is half of its group's mean: 2 (1 - 5) / 2.
    states, encoded = rows(0, 2, 4, 6)
    assert group_means(encoded).item() == 16
    assert slopes(group_means(encoded), states) == [-4, -4, 4, 4]


def test_what_a_linear_reader_explains_by_hand() -> None:
    # Around the mean 3: x = -3, -1, 1, 3 and y = -.5, -.5, .5, .5, so (x y)^2 = 16, x x = 20 and r = .2.
    states, encoded = rows(0, 2, 4, 6)
    assert group_probe(encoded).item() == pytest.approx(16 / 20.2)
    # (2 (x y) y_i (x x) - (x y)^2 2 x_i) / (1.01 (x x)^2)
    assert slopes(group_probe(encoded), states) == pytest.approx([16 / 404, -48 / 404, 48 / 404, -16 / 404], abs=1e-6)
    _, scaled = rows(0, 20, 40, 60)
    assert group_probe(scaled).item() == pytest.approx(16 / 20.2)


def test_a_direction_of_little_variance_is_read_as_well_as_any_other() -> None:
    # The group is in the second value alone, which varies a tenth as much as the first.
    states = torch.tensor([[10.0, 0.9], [-10.0, 1.1], [10.0, -1.1], [-10.0, -0.9]])[None]
    encoded = EncodedDocuments(
        states_nNE=states, real_Nn=torch.ones(4, 1, dtype=torch.bool), groups_N=torch.tensor([0, 0, 1, 1])
    )
    # r is half a hundredth of 404.04, so of the second value's 4 / 4.04 some 4.04 / (4.04 + 2.02) are left.
    assert group_probe(encoded).item() == pytest.approx(0.66, abs=0.01)


def test_three_groups_have_the_mean_over_their_pairs() -> None:
    _, encoded = rows(0, 1, 3, groups=(0, 1, 2))
    assert group_means(encoded).item() == pytest.approx((1 + 9 + 4) / 3)


def test_rows_are_pooled_over_their_tokens_and_padding_takes_no_part() -> None:
    states = torch.tensor([[0.0, 4.0], [2.0, torch.nan]])[..., None].requires_grad_()
    real = torch.tensor([[True, True], [True, False]])
    encoded = EncodedDocuments(states_nNE=states, real_Nn=real, groups_N=torch.tensor([0, 1]))
    assert encoded.pooled().tolist() == [[1], [4]]
    assert group_means(encoded).item() == 9
    # By token, then by row: the first row's two tokens share its slope of -6.
    assert slopes(group_means(encoded), states) == [-3, 6, -3, 0]


@pytest.mark.parametrize("penalty", [group_means, group_probe])
def test_rows_without_a_label_or_a_token_and_a_single_group_cost_nothing(penalty: Any) -> None:
    states, encoded = rows(0, 2, 4, 100, groups=(0, 0, 1, -1))
    assert penalty(encoded).item() == penalty(rows(0, 2, 4, groups=(0, 0, 1))[1]).item()
    assert slopes(penalty(encoded), states)[3] == 0
    assert float(penalty(rows(0, 2, groups=(1, 1))[1])) == 0
    assert float(penalty(rows(0, 2, groups=(-1, -1))[1])) == 0
    empty = EncodedDocuments(
        states_nNE=torch.ones(1, 2, 1), real_Nn=torch.tensor([[True], [False]]), groups_N=torch.tensor([0, 1])
    )
    assert float(penalty(empty)) == 0


def test_states_that_are_all_alike_say_nothing() -> None:
    states, encoded = rows(2, 2, 2, 2)
    assert group_probe(encoded).item() == 0
    assert slopes(group_probe(encoded), states) == [0, 0, 0, 0]


def test_penalties_are_summed_with_their_weights_and_may_read_the_batch() -> None:
    @PENALTIES.register("answer_length")
    def answer_length(encoded: EncodedDocuments, batch: Any) -> Tensor:
        return encoded.pooled().sum() * batch.length

    settings = [PenaltyConfig(name="group_means", weight=0.5), PenaltyConfig(name="answer_length", weight=2.0)]
    penalties = WeightedPenalties(settings)
    assert penalties
    assert float(penalties(rows(0, 2, 4, 6)[1], SimpleNamespace(length=3))) == 0.5 * 16 + 2 * 12 * 3
    assert not WeightedPenalties(())


def test_an_unknown_penalty_is_named_and_one_that_gives_several_numbers_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"penalties.name = 'group_meens': .*group_means"):
        WeightedPenalties([PenaltyConfig(name="group_meens")])
    PENALTIES.register("per_row")(lambda encoded, batch: encoded.pooled())
    with pytest.raises(ValueError, match=re.escape("a penalty gave (4, 1) numbers")):
        WeightedPenalties([PenaltyConfig(name="per_row")])(rows(0, 2, 4, 6)[1], None)
    with pytest.raises(TypeError, match="needs to be a function"):
        PENALTIES.register("none")(3)


def about(identifier: str, *documents: str, **labels: str) -> Question:
    return Question(id=identifier, question="q", answers=("a",), document_ids=documents, labels=tuple(labels.items()))


def test_a_document_is_in_the_group_of_the_questions_about_it() -> None:
    context = Context(title="", text="t", document_id="first")
    questions = [
        about("0", "x", speaks="b"), about("1", "x", "y", speaks="a"), about("2", "z"), about("3", "w", speaks="b"),
        replace(about("4", speaks="a"), contexts=(context, replace(context, document_id="second"))),
    ]  # fmt: skip
    groups, names = document_groups(questions, "speaks", "joint.group_label")
    assert groups == {"x": -1, "y": 0, "w": 1, "first": 0}
    assert names == ["a", "b"]
    assert [group_of(groups, one) for one in ("w", "w#12", "w#x", "z", "first")] == [1, 1, -1, -1, 0]


def test_a_label_that_tells_nothing_apart_is_named() -> None:
    with pytest.raises(ConfigError, match=r"joint.group_label = 'speak': .*none has it; labels are: speaks"):
        document_groups([about("0", "x", speaks="b")], "speak", "joint.group_label")
    with pytest.raises(ConfigError, match=r"two values: of 2 questions all that have it are 'b'"):
        document_groups([about("0", "x", speaks="b"), about("1", "y")], "speaks", "joint.group_label")
    with pytest.raises(ConfigError, match=r"none has it; labels are: none"):
        document_groups([about("0", "x")], "speaks", "joint.group_label")


def _trained(penalty: str, weight: float = 0.0) -> tuple[float, float, float]:
    """Of one trained encoder, on held-out documents: accuracy of answers, of a linear probe for the group, and the
    distance of the groups' means.

    A document is [answer, group] as signs in random directions of noise; a reader has to say the answer.
    """
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 16, generator=generator)
    bits = torch.randint(0, 2, (512, 2), generator=generator)
    documents = (2.0 * bits - 1) @ mixing + 0.3 * torch.randn(512, 16, generator=generator)
    torch.manual_seed(0)
    encoder, reader = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8)), nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *reader.parameters()], lr=1e-2)
    penalties = WeightedPenalties([PenaltyConfig(name=penalty, weight=weight)] if weight else [])
    train, test = slice(0, 256), slice(256, 512)

    def encoded(states: Tensor, part: slice) -> EncodedDocuments:
        real = torch.ones(256, 1, dtype=torch.bool)
        return EncodedDocuments(states_nNE=states[None], real_Nn=real, groups_N=bits[part, 1])

    for _ in range(150):
        states = encoder(documents[train])
        loss = functional.cross_entropy(reader(states), bits[train, 0]) + penalties(encoded(states, train), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        states = encoder(documents)
        right = (reader(states[test]).argmax(-1) == bits[test, 0]).float().mean()
        distance = group_means(encoded(states[test], test))
    # A linear probe in closed form (least squares on signs).
    inputs = torch.cat((states, torch.ones(512, 1)), dim=1)
    probe = torch.linalg.lstsq(inputs[train], (2.0 * bits[train, 1:] - 1)).solution
    guessed = (inputs[test] @ probe > 0)[:, 0] == bits[test, 1].bool()
    return float(right), float(guessed.float().mean()), float(distance)


def test_on_a_toy_the_group_can_no_longer_be_read_while_answers_stay_right() -> None:
    right, guessed, distance = _trained("group_probe")
    assert right >= 0.99
    assert guessed >= 0.95
    right, guessed, _ = _trained("group_probe", 10.0)
    assert right >= 0.99
    assert guessed <= 0.65
    # The means come together, though a reader that scales states up may still tell them apart.
    right, _, nearer = _trained("group_means", 10.0)
    assert right >= 0.99
    assert nearer < distance / 4
