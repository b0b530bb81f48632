"""How much documents move a model's next-token distribution: entropy, divergence and gain, as differentiable functions.

A model that reads its documents and one that answers from its weights alone can give the same text; their
distributions differ. p is the model with documents z, p0 the same model without them, y the answer to the question q,
and t runs over the tokens of y (given, not sampled: the gold answer, or one that the model wrote):

    entropy_t    H_t  = -sum_v p(v | q, z, y<t) log p(v | q, z, y<t)                            how unsure it is
    divergence_t KL_t =  sum_v p(v | q, z, y<t) log [p(v | q, z, y<t) / p0(v | q, y<t)]         how far it was moved
    gain_t       G_t  =  log p(y_t | q, z, y<t) - log p0(y_t | q, y<t)                          whether towards y

All in nats. KL is the measure of Xiao & Wang (2021, arXiv:2103.15025; entropy) and of context-aware decoding
(Shi et al. 2023, arXiv:2305.14739; contrast with and without the context). Gradients flow into whatever made the
logits, so that each is of use in a loss; `token_penalties` is one.
"""

# Dims in this file. B answers   A tokens of the longest answer   V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def entropy(logits_BAV: Tensor) -> Tensor:
    """[B, A] entropy of each next-token distribution, 0 to log V nats.

    Args:
        logits_BAV: [B, A, V] finite.
    """
    log_p_BAV = functional.log_softmax(logits_BAV, dim=-1)
    return -(log_p_BAV.exp() * log_p_BAV).sum(dim=-1)


def divergence(with_BAV: Tensor, without_BAV: Tensor) -> Tensor:
    """[B, A] KL(p || p0) of each next-token distribution with documents from that without, at least 0.

    Args:
        with_BAV: [B, A, V] logits with documents, finite.
        without_BAV: [B, A, V] logits without.
    """
    log_p_BAV = functional.log_softmax(with_BAV, dim=-1)
    log_q_BAV = functional.log_softmax(without_BAV, dim=-1)
    return (log_p_BAV.exp() * (log_p_BAV - log_q_BAV)).sum(dim=-1)


def log_likelihood(logits_BAV: Tensor, tokens_BA: Tensor) -> Tensor:
    """[B, A] log-probability of each token of the answers.

    Args:
        logits_BAV: [B, A, V] of the distribution that each token is drawn from.
        tokens_BA: [B, A] the tokens; padding is any token of the vocabulary.
    """
    log_p_BAV = functional.log_softmax(logits_BAV, dim=-1)
    return log_p_BAV.gather(-1, tokens_BA.unsqueeze(-1)).squeeze(-1)


def likelihood_gain(with_BAV: Tensor, without_BAV: Tensor, tokens_BA: Tensor) -> Tensor:
    """[B, A] how much likelier documents make each token of the answers, in nats; below 0 where less likely."""
    return log_likelihood(with_BAV, tokens_BA) - log_likelihood(without_BAV, tokens_BA)


def mean_over_answer(values_BA: Tensor, real_BA: Tensor) -> Tensor:
    """[B] the mean of each answer's tokens.

    Args:
        values_BA: [B, A] a number for each token.
        real_BA: [B, A] True on tokens, False on padding, whose values do not count, whatever they are.

    Raises:
        ValueError: An answer has no token.
    """
    counts_B = real_BA.sum(dim=1)
    if not bool((counts_B > 0).all()):
        raise ValueError("an answer without tokens has no mean")
    return values_BA.masked_fill(~real_BA, 0.0).sum(dim=1) / counts_B


def token_penalties(
    with_BAV: Tensor, without_BAV: Tensor, *, entropy_weight: float, divergence_weight: float, margin: float
) -> Tensor:
    """[B, A] what is added to a token's loss where the model is unsure, and where documents hardly move it.

        entropy_weight * H + divergence_weight * max(0, margin - KL)

    The hinge keeps the divergence from growing without bound, at the answer's expense. The distribution without
    documents is a constant: what is trained is what documents do.

    Args:
        with_BAV: [B, A, V] logits with documents.
        without_BAV: [B, A, V] logits without.
        entropy_weight: Of the first term.
        divergence_weight: Of the second.
        margin: Nats of divergence that are enough.
    """
    short_BA = functional.relu(margin - divergence(with_BAV, without_BAV.detach()))
    return entropy_weight * entropy(with_BAV) + divergence_weight * short_BA


@dataclass(frozen=True, kw_only=True)
class AnswerMeasures:
    """What is measured of one given answer, its tokens' values averaged."""

    tokens: int
    accuracy: float
    """Share of tokens that are the likeliest ones, with documents."""
    accuracy_without: float
    """The same without."""
    entropy: float
    entropy_without: float
    divergence: float
    """KL(p || p0)."""
    gain: float
    """Of log-likelihood per token."""
    log_likelihood: float
    """Per token, with documents."""


MEASURES: dict[str, str] = {
    "accuracy": "token accuracy",
    "accuracy_without": "token accuracy, without documents",
    "entropy": "entropy, nats per token",
    "entropy_without": "entropy without documents",
    "divergence": "KL(with ‖ without), nats per token",
    "gain": "log-likelihood gain, nats per token",
    "log_likelihood": "log-likelihood, nats per token",
}
"""Names of the measures in words."""


def measure(with_BAV: Tensor, without_BAV: Tensor, tokens_BA: Tensor, real_BA: Tensor) -> list[AnswerMeasures]:
    """All measures of a batch of given answers.

    Args:
        with_BAV: [B, A, V] logits with documents.
        without_BAV: [B, A, V] logits without.
        tokens_BA: [B, A] the answers.
        real_BA: [B, A] True on their tokens.

    Raises:
        ValueError: An answer has no token.
    """
    with torch.no_grad():
        given_BAV, bare_BAV = with_BAV.float(), without_BAV.float()
        likely_BA = log_likelihood(given_BAV, tokens_BA)
        parts = {
            "accuracy": (given_BAV.argmax(dim=-1) == tokens_BA).float(),
            "accuracy_without": (bare_BAV.argmax(dim=-1) == tokens_BA).float(),
            "entropy": entropy(given_BAV),
            "entropy_without": entropy(bare_BAV),
            # Rounding can leave it a hair below 0.
            "divergence": divergence(given_BAV, bare_BAV).clamp(min=0.0),
            "gain": likely_BA - log_likelihood(bare_BAV, tokens_BA),
            "log_likelihood": likely_BA,
        }
        means = {name: mean_over_answer(values_BA, real_BA).tolist() for name, values_BA in parts.items()}
        counts = real_BA.sum(dim=1).tolist()
    return [
        AnswerMeasures(tokens=count, **{name: values[place] for name, values in means.items()})
        for place, count in enumerate(counts)
    ]
