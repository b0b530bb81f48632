"""Measures of hallucination: by hand over a vocabulary of two tokens, their gradients, and answers in words."""

from __future__ import annotations

import math

import pytest
import torch

from retro.recipes.dynamic_prefix.evaluation.hallucination import (
    divergence,
    entropy,
    likelihood_gain,
    log_likelihood,
    mean_over_answer,
    measure,
    token_penalties,
)
from retro.recipes.dynamic_prefix.evaluation.support import (
    content_words,
    share_of,
    support_of,
    unchanged,
    written_measures,
)


def knowledge_penalty(given: torch.Tensor, bare: torch.Tensor, real: torch.Tensor, **weights: float) -> torch.Tensor:
    """The mean of `token_penalties` over the tokens of answers, as in training; 0 of none."""
    weights = {"entropy_weight": 0.0, "divergence_weight": 0.0, "margin": 1.0, **weights}
    total = token_penalties(given, bare, **weights)
    return total.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)


def logits(*probabilities: float) -> torch.Tensor:
    """[1, A, 2] logits whose first token has these probabilities, moved by a constant, which changes nothing."""
    p_A = torch.tensor(probabilities, dtype=torch.float64)
    return (torch.stack([p_A, 1 - p_A], dim=-1).log() + 3.0).unsqueeze(0)


HALF, MOST = math.log(2), -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))


def test_entropy_of_two_tokens() -> None:
    assert entropy(logits(0.5, 0.8)).tolist() == [pytest.approx([HALF, MOST])]


def test_divergence_of_two_tokens_is_0_only_where_nothing_moved() -> None:
    found = divergence(logits(0.8, 0.8), logits(0.5, 0.8))
    assert found.tolist() == [pytest.approx([0.8 * math.log(1.6) + 0.2 * math.log(0.4), 0.0])]
    # Against the uniform distribution it is log V less the entropy.
    assert found[0, 0].item() == pytest.approx(HALF - MOST)


def test_gain_is_of_the_token_that_is_there() -> None:
    tokens = torch.tensor([[0, 1]])
    assert log_likelihood(logits(0.8, 0.8), tokens).tolist() == [pytest.approx([math.log(0.8), math.log(0.2)])]
    found = likelihood_gain(logits(0.8, 0.8), logits(0.5, 0.5), tokens)
    assert found.tolist() == [pytest.approx([math.log(1.6), math.log(0.4)])]


def test_padding_does_not_count_whatever_it_holds() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, float("nan")]])
    real = torch.tensor([[True, True], [True, False]])
    assert mean_over_answer(values, real).tolist() == [2.0, 5.0]
    with pytest.raises(ValueError, match="without tokens"):
        mean_over_answer(values, torch.tensor([[True, True], [False, False]]))


@pytest.mark.parametrize("name", ["entropy", "divergence", "gain", "penalty"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    given, bare = (torch.randn(2, 3, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    given.requires_grad_()
    tokens, real = torch.tensor([[0, 1, 2], [3, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]])
    functions = {
        "entropy": lambda one: entropy(one),
        "divergence": lambda one: divergence(one, bare),
        "gain": lambda one: likelihood_gain(one, bare, tokens),
        "penalty": lambda one: knowledge_penalty(
            one, bare, real, entropy_weight=0.3, divergence_weight=0.7, margin=1.1
        ),
    }
    assert torch.autograd.gradcheck(functions[name], (given,))


def test_the_divergence_has_a_gradient_in_both_distributions() -> None:
    given, bare = logits(0.8).requires_grad_(), logits(0.5).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (given, bare))


def test_gradients_over_two_tokens_by_hand() -> None:
    p = 0.8
    one = logits(p).requires_grad_()
    entropy(one).sum().backward()
    # dH/dz = -p (log p + H); with two tokens p (1 - p) log((1 - p) / p).
    slope = p * (1 - p) * math.log((1 - p) / p)
    assert one.grad is not None
    assert one.grad[0, 0].tolist() == pytest.approx([slope, -slope])
    given, bare = logits(p).requires_grad_(), logits(0.5).requires_grad_()
    divergence(given, bare).sum().backward()
    # dKL/dz = p (log(p / q) - KL), and dKL/dz0 = q - p.
    kl = HALF - MOST
    assert given.grad is not None
    assert bare.grad is not None
    assert given.grad[0, 0].tolist() == pytest.approx([p * (math.log(1.6) - kl), 0.2 * (math.log(0.4) - kl)])
    assert bare.grad[0, 0].tolist() == pytest.approx([0.5 - p, 0.5 - 0.2])


def test_the_penalty_is_the_entropy_and_what_is_lacking_to_the_margin() -> None:
    given, bare = logits(0.8, 0.5), logits(0.5, 0.5).requires_grad_()
    real = torch.tensor([[True, True]])
    lacking = (1.0 - (HALF - MOST) + 1.0) / 2
    penalty = knowledge_penalty(given, bare, real, entropy_weight=2.0, divergence_weight=3.0)
    assert penalty.item() == pytest.approx(2 * (HALF + MOST) / 2 + 3 * lacking)
    # Far enough is enough, and what the model knows without documents is not trained.
    assert knowledge_penalty(given, bare, real, divergence_weight=1.0, margin=0.0).item() == 0.0
    assert not penalty.requires_grad
    assert knowledge_penalty(given, bare, torch.zeros(1, 2, dtype=torch.bool), entropy_weight=1.0).item() == 0.0


def test_descending_the_penalty_makes_documents_matter() -> None:
    bare, given = logits(0.5), logits(0.55).requires_grad_()
    real, optimizer = torch.tensor([[True]]), torch.optim.SGD([given], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        loss: torch.Tensor = knowledge_penalty(given, bare, real, divergence_weight=1.0, margin=0.3)
        loss.backward()
        optimizer.step()
    assert divergence(given, bare).item() > 0.29


def test_measures_of_answers_are_means_over_their_tokens() -> None:
    given, bare = torch.cat([logits(0.8, 0.8), logits(0.2, 0.5)]), torch.cat([logits(0.5, 0.4), logits(0.5, 0.5)])
    first, second = measure(given, bare, torch.tensor([[0, 1], [1, 0]]), torch.tensor([[True, True], [True, False]]))
    assert (first.tokens, first.accuracy, first.accuracy_without) == (2, 0.5, 1.0)
    assert first.gain == pytest.approx((math.log(1.6) + math.log(0.2 / 0.6)) / 2)
    assert first.log_likelihood == pytest.approx((math.log(0.8) + math.log(0.2)) / 2)
    assert first.entropy == pytest.approx(MOST)
    assert (second.tokens, second.accuracy, second.accuracy_without) == (1, 1.0, 0.0)
    assert second.divergence == pytest.approx(HALF - MOST)
    assert second.entropy_without == pytest.approx(HALF)


def test_content_words_are_without_function_words() -> None:
    assert content_words("Yes, it was in the Lake of Lucerne.") == ["lake", "lucerne"]
    assert content_words("No.") == []


def test_an_answer_is_supported_where_each_word_is_in_some_document() -> None:
    documents = ["Ada was born in London.", "Lovelace: a countess"]
    whole, part, none, yes = (support_of(one, documents) for one in ("Ada Lovelace", "Ada Byron", "Paris", "yes"))
    assert (whole.unsupported, whole.nothing_found, whole.share) == (False, False, 1.0)
    assert (part.unsupported, part.nothing_found, part.share) == (True, False, 0.5)
    assert (none.unsupported, none.nothing_found, none.share) == (True, True, 0.0)
    assert (yes.unsupported, yes.nothing_found, yes.share) == (None, None, None)


def test_written_measures_worked_by_hand() -> None:
    found = written_measures(
        ["Ada", "Paris", "yes", "London"],
        ["ada.", "Rome", "yes", "Berlin"],
        [["Ada lived in London"]] * 4,
        [True, False, False, False],
        0.95,
    )
    assert {name: (one["count"], one["of"]) for name, one in found.items()} == {
        "unsupported": (1, 3),
        "nothing_found": (1, 3),
        "unsupported_wrong": (1, 2),
        "no_content_words": (1, 4),
        "unchanged": (2, 4),
        "unchanged_wrong": (1, 3),
    }
    assert found["unchanged"]["share"] == 0.5
    assert found["unchanged"]["low"] == pytest.approx(0.15, abs=0.01)
    assert "unchanged" not in written_measures(["Ada"], None, [["Ada"]], [True], 0.95)


def test_a_share_of_nothing_is_nothing() -> None:
    assert share_of([None], 0.95) == {"share": None, "low": None, "high": None, "count": 0, "of": 0}


def test_answers_are_compared_normalized() -> None:
    assert unchanged("The Fox", "fox!")
    assert not unchanged("fox", "dog")
