"""Losses and their gradients against plain formulas, on matrices of 3 × 2."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from retro.recipes.dense_retriever.training.losses.functions import (
    distillation,
    enqueue,
    follow,
    info_nce,
    queue_loss,
    spread,
    vicreg,
)

QUESTIONS = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
PASSAGES = [[1.0, 1.0], [0.5, 1.0], [-1.0, 0.0]]


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def slope(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient by central differences, value by value."""
    found = torch.zeros_like(at)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in at.shape)):
        moved = torch.zeros_like(at)
        moved[tuple(place)] = step
        higher, lower = function((at + moved).detach()), function((at - moved).detach())
        found[tuple(place)] = (higher - lower) / (2 * step)
    return found.detach()


def plain_info_nce(questions: list[list[float]], candidates: list[list[float]], temperature: float) -> float:
    total = 0.0
    for number, question in enumerate(questions):
        parts = [math.exp(sum(a * b for a, b in zip(question, one, strict=True)) / temperature) for one in candidates]
        total -= math.log(parts[number] / sum(parts))
    return total / len(questions)


def test_info_nce_is_the_mean_of_minus_the_log_of_each_positives_share() -> None:
    # Logits by hand at τ = 1: [1, .5, -1], [2, 2, 0], [2, 1.5, -1].
    by_hand = (
        -(
            math.log(math.e / (math.e + math.exp(0.5) + math.exp(-1)))
            + math.log(math.exp(2) / (2 * math.exp(2) + 1))
            + math.log(math.exp(-1) / (math.exp(2) + math.exp(1.5) + math.exp(-1)))
        )
        / 3
    )
    found = info_nce(matrix(QUESTIONS), matrix(PASSAGES), 1.0)
    assert found.item() == pytest.approx(by_hand, abs=1e-12)
    assert info_nce(matrix(QUESTIONS), matrix(PASSAGES), 0.5).item() == pytest.approx(
        plain_info_nce(QUESTIONS, PASSAGES, 0.5), abs=1e-12
    )


def test_the_gradient_of_info_nce_is_share_minus_target_over_temperature() -> None:
    questions, passages = matrix(QUESTIONS), matrix(PASSAGES)
    info_nce(questions, passages, 0.5).backward()
    shares = torch.softmax(questions.detach() @ passages.detach().T / 0.5, dim=1)
    by_formula = (shares - torch.eye(3)) @ passages.detach() / 0.5 / 3
    assert questions.grad is not None and passages.grad is not None
    torch.testing.assert_close(questions.grad, by_formula)
    torch.testing.assert_close(passages.grad, slope(lambda x: info_nce(questions, x, 0.5), passages))


def test_hard_negatives_only_add_to_the_denominator() -> None:
    negative = [[2.0, -1.0]]
    found = info_nce(matrix(QUESTIONS), matrix(PASSAGES + negative), 1.0)
    assert found.item() == pytest.approx(plain_info_nce(QUESTIONS, PASSAGES + negative, 1.0), abs=1e-12)


def test_the_positives_of_a_later_process_begin_behind_those_of_the_earlier_ones() -> None:
    whole = info_nce(matrix(QUESTIONS), matrix(PASSAGES), 1.0)
    parts = [info_nce(matrix([one]), matrix(PASSAGES), 1.0, first=number) for number, one in enumerate(QUESTIONS)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), abs=1e-12)


def test_smoothing_mixes_in_the_mean_over_all_candidates() -> None:
    logs = torch.log_softmax(matrix(QUESTIONS) @ matrix(PASSAGES).T, dim=1)
    by_hand = -(0.9 * logs.diagonal() + 0.1 * logs.mean(dim=1)).mean()
    found = info_nce(matrix(QUESTIONS), matrix(PASSAGES), 1.0, smoothing=0.1)
    assert found.item() == pytest.approx(by_hand.item(), abs=1e-12)


def test_the_terms_of_vicreg_are_those_worked_by_hand() -> None:
    terms = vicreg(matrix(QUESTIONS), matrix(PASSAGES), (25.0, 25.0, 1.0))
    # Differences: (0,-1), (-.5,1), (2,1): squares sum to 0+1+.25+1+4+1 = 7.25 over 6 values.
    assert terms.invariance.item() == pytest.approx(25 * 7.25 / 6)

    # Variances (divided by 2): questions 1/3 and 1; passages 13/12 and 1/3.
    def lacking(*variances: float) -> float:
        return sum(max(0.0, 1 - math.sqrt(one + 1e-4)) for one in variances) / len(variances)

    assert terms.variance.item() == pytest.approx(25 / 2 * (lacking(1 / 3, 1) + lacking(13 / 12, 1 / 3)))
    # Off-diagonal covariances: questions Σ (x - 2/3)(y - 1) / 2 = -.5; passages Σ (x - 1/6)(y - 2/3) / 2 = 7/12.
    assert terms.covariance.item() == pytest.approx(2 * 0.25 / 2 + 2 * (7 / 12) ** 2 / 2)


def test_the_gradient_of_vicreg_is_that_of_finite_differences() -> None:
    questions, passages = matrix(QUESTIONS), matrix(PASSAGES)

    def total(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack(list(vicreg(first, second, (25.0, 25.0, 1.0)))).sum()

    total(questions, passages).backward()
    assert questions.grad is not None and passages.grad is not None
    torch.testing.assert_close(questions.grad, slope(lambda x: total(x, passages), questions), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(passages.grad, slope(lambda x: total(questions, x), passages), rtol=1e-5, atol=1e-5)


def test_vicreg_of_one_item_is_refused_for_it_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 items in a batch for a covariance, got 1"):
        vicreg(matrix([[1.0, 0.0]]), matrix([[1.0, 0.0]]), (25.0, 25.0, 1.0))


def test_equal_embeddings_have_no_spread_and_centred_ones_all_of_it() -> None:
    assert spread(torch.tensor([[3.0, 1.0]] * 4)).item() == 0
    assert spread(torch.tensor([[3.0, 1.0], [-3.0, -1.0]])).item() == pytest.approx(1)
    assert spread(torch.zeros(2, 3)).item() == 0
    # Means (2, 0), variances (1, 0), mean square (1 + 9) / 4 = 2.5: sqrt(.5 / 2.5).
    assert spread(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item() == pytest.approx(math.sqrt(0.2))


def test_a_question_meets_its_own_positive_and_the_queue_but_no_other_positive() -> None:
    queue = matrix([[0.0, 1.0], [2.0, 0.0]])
    found = queue_loss(matrix(QUESTIONS), matrix(PASSAGES), queue, 0.5)
    # Logits / τ: own 1, 2, -1 doubled; queue [0, 2], [2, 0], [1, 2] doubled.
    rows = [(2.0, 0.0, 4.0), (4.0, 4.0, 0.0), (-2.0, 2.0, 4.0)]
    by_hand = -sum(math.log(math.exp(row[0]) / sum(map(math.exp, row))) for row in rows) / 3
    assert found.item() == pytest.approx(by_hand, abs=1e-12)


def test_keys_and_queue_get_no_gradient() -> None:
    questions, passages, queue = matrix(QUESTIONS), matrix(PASSAGES), matrix([[0.0, 1.0], [2.0, 0.0]])
    queue_loss(questions, passages, queue, 0.5).backward()
    assert passages.grad is None and queue.grad is None and questions.grad is not None
    torch.testing.assert_close(questions.grad, slope(lambda x: queue_loss(x, passages, queue, 0.5), questions))


def test_the_queue_overwrites_its_oldest_entries_and_wraps_around() -> None:
    queue = torch.zeros(5, 2)
    place = enqueue(queue, torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), 0)
    assert (place, queue[:, 0].tolist()) == (3, [1, 2, 3, 0, 0])
    place = enqueue(queue, torch.tensor([[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]), place)
    assert (place, queue[:, 0].tolist()) == (1, [6, 2, 3, 4, 5])


def test_of_more_keys_than_the_queue_holds_the_last_stay() -> None:
    queue = torch.zeros(2, 1)
    assert enqueue(queue, torch.tensor([[1.0], [2.0], [3.0]]), 1) == 0
    assert queue[:, 0].tolist() == [2, 3]


def test_the_momentum_encoder_moves_by_its_share() -> None:
    slow, fast = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        slow.weight.copy_(torch.tensor([[1.0, 2.0]]))
        fast.weight.copy_(torch.tensor([[3.0, 0.0]]))
    follow(slow, fast, 0.75)
    assert slow.weight.tolist() == [[1.5, 1.5]]
    assert fast.weight.tolist() == [[3.0, 0.0]]


def test_distillation_is_the_divergence_of_the_retriever_from_the_reader() -> None:
    scores, reader = matrix([[1.0, 0.0]]), matrix([[math.log(3.0), 0.0]])
    # Reader at τ_r = 1: 3/4 and 1/4. Retriever at τ = .5: softmax(2, 0).
    first = math.exp(2) / (math.exp(2) + 1)
    by_hand = 0.75 * math.log(0.75 / first) + 0.25 * math.log(0.25 / (1 - first))
    assert distillation(scores, reader, 0.5, 1.0).item() == pytest.approx(by_hand, abs=1e-12)


def test_the_gradient_of_distillation_is_share_minus_the_readers_and_none_goes_to_the_reader() -> None:
    scores, reader = matrix([[1.0, 0.0, 2.0], [0.0, 0.5, 0.0]]), matrix([[-1.0, -3.0, -2.0], [-5.0, -1.0, -1.0]])
    distillation(scores, reader, 0.5, 2.0).backward()
    by_formula = (torch.softmax(scores / 0.5, 1) - torch.softmax(reader / 2.0, 1)) / 0.5 / 2
    assert scores.grad is not None and reader.grad is None
    torch.testing.assert_close(scores.grad, by_formula.detach())
