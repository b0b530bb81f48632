"""Whether adapters are applied: the decoder computes a few tokens with them and without, and the logits must differ.

An adapter can be lost without an error anywhere: a layer whose forward was replaced, a scale of zero, a sum rounded
away. The answers are then the base's. So the check is made with the very decoder that answers, before it does.
"""

# Dims in this file.
#   T tokens   V vocabulary   K neighbors   R tokens of a neighbor

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retro.common.errors import ArtifactError
from retro.generate.request import Decoder, Extension, Neighbors

log = logging.getLogger(__name__)

_TOKENS_AFTER_A_CHUNK = 4


def probe(decoder: Decoder, adapter: str = "") -> Tensor:
    """[T, V] logits of some tokens: a chunk with neighbors, where the model reads them, and four more.

    Args:
        decoder: The model.
        adapter: What the tokens are read with.
    """
    count = min(decoder.chunk_length + _TOKENS_AFTER_A_CHUNK, decoder.sequence_length)
    neighbors: Mapping[int, Neighbors] = {}
    if decoder.reads_neighbors and count >= decoder.chunk_length:
        size = (decoder.neighbors, decoder.retrieved_length)
        tokens_KR = np.arange(size[0] * size[1]).reshape(size) * 5 % decoder.vocabulary
        neighbors = {decoder.chunk_length - 1: Neighbors(tokens_KR, np.ones(size, dtype=np.bool_))}
    tokens = [place * 7 % decoder.vocabulary for place in range(count)]
    row = decoder.open(adapter)
    try:
        (logits_TV,) = decoder.extend_all([Extension(row, tokens, neighbors)])
    finally:
        decoder.close(row)
    return logits_TV


def require_applied(path: Path, adapted_TV: Tensor, base_TV: Tensor, why: str, *, allow_unchanged: bool) -> None:
    """Check that adapters change what the model computes.

    Equal to the bit is what layers without adapters give; the smallest adapter changes some last bit.

    Args:
        path: The adapters' checkpoint.
        adapted_TV: Logits with them.
        base_TV: Logits of the same tokens without.
        why: What may be the reason where these are equal.
        allow_unchanged: Warn only.

    Raises:
        ArtifactError: They change nothing.
    """
    if not torch.equal(adapted_TV, base_TV):
        log.info(
            "%s: its adapters are applied; they move a logit by %.3g at most", path, (adapted_TV - base_TV).abs().max()
        )
        return
    problem = f"its adapters change nothing: the model computes what its base does ({why})"
    if not allow_unchanged:
        remedy = "Give a checkpoint that was trained, or set generate.allow_unchanged_adapters=true to answer like this"
        raise ArtifactError(path, problem, remedy)
    log.warning("%s: %s", path, problem)


def reason(chunk: torch.nn.Module, columns: slice) -> str:
    """Why adapters may change nothing, as far as their weights say.

    Args:
        chunk: The model, or a stage of it.
        columns: Which of the numbers between A and B are theirs.
    """
    high = [weight[:, columns] for name, weight in chunk.named_parameters() if name.endswith("lora_b")]
    if high and not any(bool(one.any()) for one in high):
        return "every B is zero, as before the first step of training"
    return "B is not zero, but what it adds is: look at alpha and at the gates of cross-attention"
