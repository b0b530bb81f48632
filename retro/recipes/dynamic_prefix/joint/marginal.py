"""REALM's marginal likelihood of an answer over the documents found for its question, and its gradient.

    p(z|x) = softmax over the k documents found of f(x, z) / temperature,  f(x, z) = Emb(x) . Emb(z)
    log p(y|x) = log sum_z exp(log p(z|x) + log p(y|x, z))
    d log p(y|x) / d f(x, z) = r(z, x) p(z|x) / temperature,  r(z, x) = p(y|x, z) / p(y|x) - 1

(Guu et al. 2020, arXiv:2002.08909, sections 3.1 and 3.3, appendix A.) A document earns a higher score if it makes the
answer likelier than the documents found do on average.

Numerics: everything is in float32 and in log space. p(y|x, z) of an answer of some tokens underflows (e^-104 is 0 in
float32), its logarithm does not. A document that is missing has log probability -inf and takes no part; its own values
are replaced before they enter a sum, so that not even NaN gets through, and no gradient reaches them.
"""

# Dims in this file. B questions   K documents found for each   S tokens

from __future__ import annotations

import torch
from torch import Tensor


def document_scores(question_BE: Tensor, documents_BKE: Tensor, temperature: float = 1.0) -> Tensor:
    """[B, K] float32 inner products of each question with its own documents, divided by the temperature."""
    return torch.einsum("be,bke->bk", question_BE.float(), documents_BKE.float()) / temperature


def document_log_probs(scores_BK: Tensor, there_BK: Tensor | None = None) -> Tensor:
    """[B, K] log p(z|x), over the documents that are there; -inf for one that is not.

    Args:
        scores_BK: f(x, z) / temperature.
        there_BK: True where there is a document; None: everywhere. A question without any has -inf throughout.
    """
    if there_BK is None:
        return scores_BK.float().log_softmax(dim=-1)
    # A row without documents would be -inf - -inf: it is computed with zeros, and masked afterwards.
    finite_BK = _masked(scores_BK.float(), there_BK, -torch.inf)
    finite_BK = torch.where(there_BK.any(dim=-1, keepdim=True), finite_BK, torch.zeros_like(finite_BK))
    return _masked(finite_BK.log_softmax(dim=-1), there_BK, -torch.inf)


def answer_log_probs(losses_RS: Tensor, mask_RS: Tensor) -> Tensor:
    """[R] log p(y|x, z), the sum over the answer's tokens.

    Args:
        losses_RS: Cross-entropy of each label.
        mask_RS: 1 where a label is of the answer, else 0; losses elsewhere may be anything.
    """
    return -_masked(losses_RS.float(), mask_RS > 0, 0.0).sum(dim=-1)


def marginal_log_likelihood(scores_BK: Tensor, answers_BK: Tensor, there_BK: Tensor | None = None) -> Tensor:
    """[B] log p(y|x).

    Args:
        scores_BK: f(x, z) / temperature.
        answers_BK: log p(y|x, z).
        there_BK: True where there is a document; None: everywhere.

    Returns:
        Of a question without documents 0, without a gradient: the caller's mask leaves it out.
    """
    there_BK = torch.ones_like(scores_BK, dtype=torch.bool) if there_BK is None else there_BK
    some_B = there_BK.any(dim=-1)
    joint_BK = document_log_probs(scores_BK, there_BK) + _masked(answers_BK.float(), there_BK, 0.0)
    # logsumexp over nothing has NaN for a gradient.
    joint_BK = torch.where(some_B[:, None], joint_BK, torch.zeros_like(joint_BK))
    return _masked(joint_BK.logsumexp(dim=-1), some_B, 0.0)


def marginal_loss(scores_BK: Tensor, answers_BK: Tensor, there_BK: Tensor | None = None) -> Tensor:
    """[B] -log p(y|x); arguments as of `marginal_log_likelihood`."""
    return -marginal_log_likelihood(scores_BK, answers_BK, there_BK)


@torch.no_grad()
def realm_gradient(
    scores_BK: Tensor, answers_BK: Tensor, there_BK: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The gradient in the closed form of appendix A, for tests and for reports of which documents earn a higher score.

    Args:
        scores_BK: f(x, z) / temperature.
        answers_BK: log p(y|x, z).
        there_BK: True where there is a document; None: everywhere.
        temperature: What the scores were divided by.

    Returns:
        [B, K] d log p(y|x) / d f(x, z), and [B, K] r(z, x) = p(y|x, z) / p(y|x) - 1, at least -1. Both are 0 for a
        document that is not there.
    """
    there_BK = torch.ones_like(scores_BK, dtype=torch.bool) if there_BK is None else there_BK
    total_B = marginal_log_likelihood(scores_BK, answers_BK, there_BK)
    ratio_BK = (answers_BK.float() - total_B[:, None]).expm1()
    ratio_BK = _masked(ratio_BK, there_BK, 0.0)
    # The posterior p(z|x, y) less the prior p(z|x): the same product, without a ratio that overflows where p(z|x) is 0.
    prior_BK = document_log_probs(scores_BK, there_BK)
    posterior_BK = (prior_BK + answers_BK.float() - total_B[:, None]).exp()
    return _masked((posterior_BK - prior_BK.exp()) / temperature, there_BK, 0.0), ratio_BK


def _masked(values: Tensor, kept: Tensor, otherwise: float) -> Tensor:
    return values.masked_fill(~kept, otherwise)
