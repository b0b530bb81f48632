"""What the original project reports of its retrievers: accuracy among the validation's own positives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of the original's table."""

    objective: str
    training: str
    top5: str
    """Share of the validation's questions whose own positive is among the five nearest of the validation's
    positives."""


PUBLISHED = (
    Published("VICReg", "200 epochs, batch 64, learning rate 1e-4", "about 70, and falling"),
    Published("InfoNCE, reader's validation documents in training", "20 epochs, batch 32, learning rate 3e-5", "88.47"),
    Published("InfoNCE, one split by document", "5 epochs, batch 32, learning rate 3e-5, 98,708 pairs", "90.91"),
)
"""Contriever tuned on questions and long answers of Natural Questions, by the same schedule as `train.plateau`."""
