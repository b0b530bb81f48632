"""What travels between pipeline stages while decoding: the new tokens' states and, where chunks end, the neighbors.

Every stage plans the same call, so each knows the size of what arrives. Stages before the encoder hand embedded
neighbors on, those after it encoded ones.
"""

# Dims in this file.
#   P packed tokens   H hidden size   E new chunks   K neighbors   R tokens of a neighbor

from __future__ import annotations

import torch
from torch import Tensor

from retro.generate.decoding.chunks import Reading
from retro.generate.decoding.step import Step
from retro.mcore import p2p
from retro.mcore.layers import TransformerConfig


def hand_on(hidden_P1H: Tensor, context: Tensor | None) -> None:
    """Send [P, 1, H] states and [R, E K, H] neighbors to the next stage, in one tensor."""
    parts = [x.flatten(0, 1) for x in (hidden_P1H, context) if x is not None]
    p2p.send_on(torch.cat(parts))


def receive(step: Step, reading: Reading, config: TransformerConfig) -> tuple[Tensor, Tensor | None]:
    """What the stage before hands on."""
    tokens, of_neighbors = len(step.tokens_P), 0
    if reading.new is not None:
        of_neighbors = reading.new.neighbors_EKR.numel()
    arrived = p2p.receive((tokens + of_neighbors, config.hidden_size), config.params_dtype)
    if reading.new is None:
        return arrived[:, None], None
    width = reading.new.neighbors_EKR.size(2)
    return arrived[:tokens, None], arrived[tokens:].unflatten(0, (width, -1))
