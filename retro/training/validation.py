"""The mean loss of a model over held-out sequences: for validation during training, and for perplexity."""

# Dims: B sequences of a micro batch, S tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from retro.mcore import parallel
from retro.mcore.engine import SeenLosses, TokenLosses, Work, evaluate, unwrap_model
from retro.model.config import ModelShape
from retro.training.batch import BatchSource
from retro.training.data_loader import DataLoader, MicroBatch


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What to evaluate during training."""

    source: BatchSource
    samples: int
    """Sequences it holds."""


SampleLosses = Callable[[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]], None]
"""Called with [B] sample numbers, -1 for one that does not count, their [B, S] losses, and the losses' [B, S] mask."""


def mean_loss(
    wrapped: Sequence[nn.Module],
    shape: ModelShape,
    validation: Validation,
    samples: int,
    micro_batch: int,
    seen: SampleLosses | None = None,
    loss: TokenLosses[MicroBatch] | None = None,
) -> tuple[float, int]:
    """Mean loss over the labels of the first `samples` sequences, and how many labels that were.

    Args:
        wrapped: This rank's groups of layers, bare or as an engine wraps them.
        shape: The model.
        validation: What to evaluate.
        samples: Sequences, at most.
        micro_batch: Sequences in one pass.
        seen: Called with the losses of this data parallel rank's sequences, on the last stage; each sequence once
            over the data parallel ranks.
        loss: As of `training.train`; None: `token_losses`.

    The sequences are spread over the data parallel ranks.
    """
    rank, ranks = parallel.data_parallel()
    _, stages = parallel.pipeline_rank()
    # A pipeline needs several micro batches at a time to be full, and all of one size.
    passes = 1 if stages == 1 else 4 * stages
    total, tokens = 0.0, 0
    count, together = min(samples, validation.samples), passes * micro_batch * ranks
    parts = [np.arange(first, first + together)[rank::ranks] for first in range(0, count, together)]
    parts = [np.where(numbers < count, numbers, -1) for numbers in parts]
    with DataLoader(validation.source, shape, [unwrap_model(one) for one in wrapped], micro_batch) as feed:
        for numbers, following in zip_longest(parts, parts[1:]):
            work = feed.work(numbers)
            if following is not None:
                feed.expect(following)
            reported = None if seen is None else _telling(seen, work, numbers)
            more_loss, more_tokens = evaluate(wrapped, work, loss or token_losses, reported)
            total, tokens = total + more_loss, tokens + more_tokens
    return total / max(tokens, 1), tokens


def _telling(seen: SampleLosses, work: Work[MicroBatch], numbers: NDArray[np.int64]) -> SeenLosses[MicroBatch]:
    """`seen`, called with sample numbers in place of micro batches: the schedule may take these in any order."""
    parts = np.split(numbers, len(work.micro_batches))
    numbers_of = {id(one): part for one, part in zip(work.micro_batches, parts, strict=True)}

    def tell(micro_batch: MicroBatch, losses_BS: Tensor, mask_BS: Tensor) -> None:
        seen(numbers_of[id(micro_batch)], losses_BS.float().cpu().numpy(), mask_BS.float().cpu().numpy())

    return tell


def token_losses(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """[B, S] cross-entropy of each label and [B, S] float mask; before the last stage, what travels and nothing."""
    output = model(
        batch.tokens_BS,
        batch.neighbors_BLKR,
        batch.neighbor_mask_BLKR,
        batch.token_mask_BS,
        batch.labels_BS,
        segments_BS=batch.segments_BS,
    )
    return output, output.new_zeros(()) if batch.loss_mask_BS is None else batch.loss_mask_BS
