"""Losses of a dense retriever as functions of embeddings: no model, no trainer, no processes.

InfoNCE (van den Oord et al. 2018, arXiv:1807.03748; with a queue of negatives He et al. 2020, arXiv:1911.05722, as
Contriever has both, Izacard et al. 2022, arXiv:2112.09118), VICReg (Bardes et al. 2022, arXiv:2105.04906), distillation
of a reader's likelihoods (Atlas, Izacard et al. 2023, arXiv:2208.03299, section 2.2; RePlug, Shi et al. 2023,
arXiv:2301.12652, section 4).
"""

# Dims in this file. B questions of a batch   C candidates   D dimension   Q entries of the queue

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VARIANCE_FLOOR = 1e-4
"""Added to variances before their root is taken: the root has no slope at 0."""


def info_nce(
    questions_BD: Tensor, candidates_CD: Tensor, temperature: float, *, smoothing: float = 0.0, first: int = 0
) -> Tensor:
    """Mean over the questions of −log exp(q·k₊/τ) / Σ exp(q·k/τ). The positive of question i is candidate first + i.

    Args:
        questions_BD: [B, D] of this process, of length 1 where similarity is a cosine.
        candidates_CD: [C, D] positives in the order of the questions of all processes, then hard negatives.
        temperature: τ, above 0.
        smoothing: Share of the target that is spread over all candidates, from 0 to below 1.
        first: Candidate of the first question: questions of the processes before this one.
    """
    logits_BC = questions_BD @ candidates_CD.T / temperature
    target_B = torch.arange(first, first + len(questions_BD), device=logits_BC.device)
    return F.cross_entropy(logits_BC, target_B, label_smoothing=smoothing)


class VicregTerms(NamedTuple):
    """The three terms of VICReg, weighted."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg(first_BD: Tensor, second_BD: Tensor, weights: tuple[float, float, float]) -> VicregTerms:
    """VICReg's terms for two embeddings of each item.

    λ · MSE(z, z′); μ · ½ · Σ over both of mean_j relu(1 − sqrt(var_j + 10⁻⁴)); ν · Σ over both of Σ_{i≠j} C_ij² / D,
    with C the covariance over the batch, divided by B − 1.

    Args:
        first_BD: [B, D] z.
        second_BD: [B, D] z′.
        weights: λ, μ, ν: 25, 25 and 1 as published.

    Raises:
        ValueError: The batch has fewer than 2 items, which have no covariance.
    """
    if len(first_BD) < 2:
        raise ValueError(f"VICReg needs at least 2 items in a batch for a covariance, got {len(first_BD)}")
    both = (first_BD, second_BD)
    invariance = F.mse_loss(first_BD, second_BD)
    variance = torch.stack([_lacking_variance(one) for one in both]).sum() / 2
    covariance = torch.stack([_covariance(one) for one in both]).sum()
    return VicregTerms(weights[0] * invariance, weights[1] * variance, weights[2] * covariance)


def _lacking_variance(embeddings_BD: Tensor) -> Tensor:
    return F.relu(1 - (embeddings_BD.var(dim=0) + VARIANCE_FLOOR).sqrt()).mean()


def _covariance(embeddings_BD: Tensor) -> Tensor:
    count, dimension = embeddings_BD.shape
    centred_BD = embeddings_BD - embeddings_BD.mean(dim=0)
    covariance_DD = centred_BD.T @ centred_BD / (count - 1)
    return (covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()) / dimension


def spread(embeddings_BD: Tensor) -> Tensor:
    """How far embeddings differ from each other: root of their mean variance over root of their mean square, 0 to about
    1. Near 0 they have collapsed: every text has the same vector.
    """
    values_BD = embeddings_BD.detach().float()
    scale = values_BD.square().mean().clamp(min=1e-30)
    return (values_BD.var(dim=0, unbiased=False).mean() / scale).sqrt()


def queue_loss(
    questions_BD: Tensor, positives_BD: Tensor, queue_QD: Tensor, temperature: float, smoothing: float = 0.0
) -> Tensor:
    """InfoNCE against a queue: the positive of each question beside all of the queue, not beside other positives.

    Args:
        questions_BD: [B, D] with a gradient.
        positives_BD: [B, D] of the momentum encoder, without.
        queue_QD: [Q, D] positives of earlier batches, without.
        temperature: τ.
        smoothing: As in `info_nce`.
    """
    own_B1 = (questions_BD * positives_BD.detach()).sum(dim=1, keepdim=True)
    logits_BC = torch.cat([own_B1, questions_BD @ queue_QD.detach().T], dim=1) / temperature
    target_B = torch.zeros(len(logits_BC), dtype=torch.long, device=logits_BC.device)
    return F.cross_entropy(logits_BC, target_B, label_smoothing=smoothing)


@torch.no_grad()
def enqueue(queue_QD: Tensor, keys_BD: Tensor, place: int) -> int:
    """Write keys over the oldest entries of a queue, in place, from `place` on and from its begin again at its end.

    Args:
        queue_QD: [Q, D].
        keys_BD: [B, D]; of more than Q keys the last Q are kept.
        place: Where the oldest entry is, 0 to Q − 1.

    Returns:
        Where the oldest entry is now.
    """
    size = len(queue_QD)
    places_B = (place + torch.arange(len(keys_BD), device=queue_QD.device)) % size
    queue_QD[places_B[-size:]] = keys_BD[-size:].to(queue_QD.dtype)
    return (place + len(keys_BD)) % size


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Move the weights of the momentum encoder: slow = m · slow + (1 − m) · fast. Buffers are copied."""
    for mine, its in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.mul_(momentum).add_(its.detach().to(mine.dtype), alpha=1 - momentum)
    for kept, given in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.copy_(given)


def distillation(scores_BC: Tensor, reader_BC: Tensor, temperature: float, reader_temperature: float) -> Tensor:
    """KL(softmax(reader / τ_r) ‖ softmax(q·d / τ)), mean over the questions.

    Args:
        scores_BC: [B, C] similarity of each question and its passages.
        reader_BC: [B, C] log-likelihood of the answer given each passage: of perplexity distillation (PDist) in Atlas,
            of LSR in RePlug.
        temperature: τ of the retriever.
        reader_temperature: τ_r of the reader.
    """
    target_BC = torch.log_softmax(reader_BC.detach() / reader_temperature, dim=1)
    found_BC = torch.log_softmax(scores_BC / temperature, dim=1)
    return F.kl_div(found_BC, target_BC, reduction="batchmean", log_target=True)
