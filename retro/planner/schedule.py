"""The pipeline schedule: how many micro batches a stage keeps at a time, and how long the stages wait.

1F1B (Narayanan et al. 2021, arXiv:2104.04473, section 2.2): stage i of p runs p - i - 1 forwards ahead, so it keeps
p - i micro batches. Interleaved, stages take turns in runs of p micro batches for each of their v blocks, and stage i
runs 2 (p - i - 1) + (v - 1) p ahead.
"""

from __future__ import annotations

from collections.abc import Sequence


def most_kept(block_bytes: Sequence[float], *, stage: int, stages: int, micro_batches: int) -> float:
    """The most bytes that a stage keeps at a time.

    Args:
        block_bytes: What each of the stage's blocks keeps of one micro batch.
        stage: Which stage, counted from 0.
        stages: How many there are, p.
        micro_batches: Of one optimizer step.
    """
    turns = len(block_bytes)
    # The schedule repeats after p micro batches, and is full after two such runs.
    total = min(micro_batches, 4 * stages) * turns
    ahead = stages - stage - 1 if turns == 1 else 2 * (stages - stage - 1) + (turns - 1) * stages
    forward = [number % (stages * turns) // stages for number in range(total)]
    ahead = min(ahead, total)
    most = kept = sum(block_bytes[turn] for turn in forward[:ahead])
    for number in range(total - ahead):
        kept += block_bytes[forward[number + ahead]]
        most = max(most, kept)
        kept -= block_bytes[turns - 1 - forward[number]]
    return most


def bubble(stages: int, turns: int, micro_batches: int) -> float:
    """Time that a stage waits, as a share of the time it works: (p - 1) / (v m)."""
    return (stages - 1) / (turns * micro_batches)
