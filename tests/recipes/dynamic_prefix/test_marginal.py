"""The marginal likelihood over documents and REALM's gradient: by hand, by enumeration, where some are missing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from retro.recipes.dynamic_prefix.joint.marginal import (
    answer_log_probs,
    document_log_probs,
    document_scores,
    marginal_log_likelihood,
    marginal_loss,
    realm_gradient,
)

MISSING = torch.tensor([[True, True, False]])


def logs(*values: float) -> Tensor:
    return torch.tensor([[math.log(value) if value else -math.inf for value in values]])


def gradient(scores_BK: Tensor, answers_BK: Tensor, there_BK: Tensor | None = None) -> Tensor:
    leaf_BK = scores_BK.clone().requires_grad_()
    marginal_log_likelihood(leaf_BK, answers_BK, there_BK).sum().backward()
    assert leaf_BK.grad is not None
    return leaf_BK.grad


def test_two_documents_by_hand() -> None:
    # p(z|x) = 1/4, 3/4; p(y|x,z) = 1/2, 1/6: each adds 1/8, so p(y|x) = 1/4. r = 2 - 1 and 2/3 - 1, times p(z|x).
    scores, answers = logs(1, 3), logs(1 / 2, 1 / 6)
    assert marginal_log_likelihood(scores, answers).exp().tolist() == pytest.approx([1 / 4])
    assert marginal_loss(scores, answers).tolist() == pytest.approx([math.log(4)])
    found, ratio = realm_gradient(scores, answers)
    assert ratio[0].tolist() == pytest.approx([1, -1 / 3])
    assert found[0].tolist() == pytest.approx([1 / 4, -1 / 4], abs=1e-6)
    assert gradient(scores, answers)[0].tolist() == pytest.approx([1 / 4, -1 / 4], abs=1e-6)


def test_three_documents_by_hand_one_of_which_rules_the_answer_out() -> None:
    scores, answers = logs(1, 1, 1), logs(0.6, 0.3, 0)
    found, ratio = realm_gradient(scores, answers)
    assert ratio[0].tolist() == pytest.approx([1, 0, -1], abs=1e-6)
    assert found[0].tolist() == pytest.approx([1 / 3, 0, -1 / 3], abs=1e-6)
    assert gradient(scores, answers)[0].tolist() == pytest.approx([1 / 3, 0, -1 / 3], abs=1e-6)


def test_a_missing_document_takes_no_part_whatever_its_values_are() -> None:
    # p(z|x) = 1/2, 1/2, so p(y|x) = .45: r = 4/3 - 1 and 2/3 - 1.
    scores = torch.tensor([[0.0, 0.0, math.nan]])
    answers = torch.cat((logs(0.6, 0.3), torch.tensor([[math.nan]])), dim=1)
    assert marginal_log_likelihood(scores, answers, MISSING).exp().tolist() == pytest.approx([0.45])
    for found in (gradient(scores, answers, MISSING), realm_gradient(scores, answers, MISSING)[0]):
        assert found[0].tolist() == pytest.approx([1 / 6, -1 / 6, 0], abs=1e-6)


def test_a_question_without_documents_has_no_gradient_and_spoils_no_other() -> None:
    scores = torch.zeros(2, 3)
    answers = torch.cat((logs(0.6, 0.3, 0.3), logs(0.1, 0.1, 0.1)))
    there = torch.tensor([[True] * 3, [False] * 3])
    found = gradient(scores, answers, there)
    assert marginal_log_likelihood(scores, answers, there)[1] == 0
    assert document_log_probs(scores, there)[1].tolist() == [-math.inf] * 3
    assert found[1].tolist() == [0, 0, 0]
    assert torch.isfinite(found).all()
    assert realm_gradient(scores, answers, there)[0][1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("documents", [1, 2, 5, 17])
def test_the_closed_form_is_what_autograd_gives_for_every_document(documents: int) -> None:
    generator = torch.Generator().manual_seed(documents)
    scores = 3 * torch.randn(4, documents, generator=generator)
    answers = -20 * torch.rand(4, documents, generator=generator)
    there = torch.rand(4, documents, generator=generator) < 0.7
    for mask in (None, there):
        torch.testing.assert_close(
            gradient(scores, answers, mask), realm_gradient(scores, answers, mask)[0], atol=1e-6, rtol=1e-5
        )


def test_a_toy_by_enumeration_the_gradient_of_an_encoder_weight_is_the_sum_over_all_documents() -> None:
    """Sum over z of r(z, x) p(z|x) d f(x, z), in probabilities as the paper has it, against autograd in log space."""
    generator = torch.Generator().manual_seed(0)
    question, documents = torch.randn(2, generator=generator), torch.randn(5, 2, generator=generator)
    likelihoods = torch.rand(5, generator=generator)
    weight = torch.randn(3, 2, generator=generator).requires_grad_()

    scores = document_scores((question @ weight.T)[None], (documents @ weight.T)[None], temperature=0.5)
    (found,) = torch.autograd.grad(marginal_log_likelihood(scores, likelihoods.log()[None]).sum(), weight)

    prior = scores[0].detach().softmax(0)
    expected = torch.zeros_like(weight)
    for number in range(5):
        one = (weight @ question) @ (weight @ documents[number])
        (slope,) = torch.autograd.grad(one, weight)
        r = likelihoods[number] / (prior * likelihoods).sum() - 1
        expected += r * prior[number] / 0.5 * slope
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    closed, _ = realm_gradient(scores.detach(), likelihoods.log()[None], temperature=0.5)
    assert closed.sum().abs() < 1e-6


def test_answers_too_unlikely_for_float32_still_have_their_likelihood_and_gradient() -> None:
    # e^-1000 is 0 in float32. p(z|x) = 1/2 each; the second is e times likelier, so its posterior is e / (1 + e).
    scores, answers = torch.zeros(1, 2), torch.tensor([[-1000.0, -999.0]])
    e = math.e
    assert float(marginal_log_likelihood(scores, answers)) == pytest.approx(-999 + math.log((1 / e + 1) / 2), abs=1e-4)
    posterior = e / (1 + e)
    expected = [1 - posterior - 0.5, posterior - 0.5]
    assert gradient(scores, answers)[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert realm_gradient(scores, answers)[0][0].tolist() == pytest.approx(expected, abs=1e-4)


def test_scores_are_inner_products_over_the_temperature() -> None:
    question, documents = torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0, 0.0], [1.0, 1.0]]])
    assert document_scores(question, documents, 2.0).tolist() == [[1.5, 1.5]]
    assert document_scores(question.bfloat16(), documents.bfloat16()).dtype == torch.float32


def test_an_answer_is_the_sum_over_its_tokens_and_losses_elsewhere_may_be_anything() -> None:
    losses = torch.tensor([[math.nan, 1.0, 2.5], [0.5, math.inf, 0.0]])
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert answer_log_probs(losses, mask).tolist() == [-3.5, -0.5]
