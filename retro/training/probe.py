"""Whether retrieval is being learned, seen while training: gates, and what a model makes of neighbors.

The loss on the same few held-out sequences, three times: with their own neighbors, with another sequence's at the same
places, and with none. Reading is learned once real < shuffled; real < none alone may only mean
that any context helps.
"""

# Dims in this file.
#   B sequences   P chunks with a neighbor, over a batch   K neighbors of a chunk   R tokens of a neighbor

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.mcore import parallel
from retro.mcore.engine import Engine
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.training.batch import Batch, BatchSource, BatchSpec
from retro.training.config import TrainConfig
from retro.training.log import read_log
from retro.training.validation import Validation, mean_loss

log = logging.getLogger(__name__)

Reading: TypeAlias = Literal["real", "shuffled", "none"]
READINGS: tuple[Reading, ...] = ("real", "shuffled", "none")
_LOSS = "probe_"
_GATE = "gate_layer_"


class ProbeSource:
    """A few samples of a source, read with their own neighbors, with others', or with none."""

    def __init__(self, source: BatchSource, numbers: NDArray[np.int64], reading: Reading) -> None:
        """Nothing is read yet.

        Args:
            source: Samples by number.
            numbers: Of the samples to read.
            reading: What is in place of their neighbors.
        """
        self.source, self.numbers, self.reading = source, numbers, reading

    @property
    def form(self) -> BatchSpec:
        """That of all samples."""
        return self.source.form

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by their number among those of the probe."""
        batch = self.source.fetch(self.numbers[sample_numbers])
        if self.reading == "real" or batch.neighbors_BLKR is None or batch.neighbor_mask_BLKR is None:
            return batch
        if self.reading == "none":
            return replace(batch, neighbor_mask_BLKR=np.zeros_like(batch.neighbor_mask_BLKR))
        neighbors, mask = batch.neighbors_BLKR.copy(), batch.neighbor_mask_BLKR.copy()
        # One after the other: what a sample is given does not depend on those that it comes with.
        for row, number in enumerate(sample_numbers.tolist()):
            theirs = self.source.fetch(self.numbers[[self._other(number)]])
            _exchange(neighbors[row], mask[row], theirs)
        return replace(batch, neighbors_BLKR=neighbors, neighbor_mask_BLKR=mask)

    def _other(self, number: int) -> int:
        """The sample half way round: far away in the text."""
        return (number + max(len(self.numbers) // 2, 1)) % len(self.numbers)


def _exchange(neighbors_LKR: NDArray[Any], mask_LKR: NDArray[np.bool_], theirs: Batch) -> None:
    """Give each chunk that has neighbors those of a chunk of another sample that has some, in turn."""
    assert theirs.neighbors_BLKR is not None and theirs.neighbor_mask_BLKR is not None
    offered_PKR, real_PKR = theirs.neighbors_BLKR[0], theirs.neighbor_mask_BLKR[0]
    offers_P = np.flatnonzero(real_PKR.any(axis=(1, 2)))
    places_P = np.flatnonzero(mask_LKR.any(axis=(1, 2)))
    if not len(offers_P):
        mask_LKR[:] = False
        return
    taken_P = offers_P[np.arange(len(places_P)) % len(offers_P)]
    neighbors_LKR[places_P], mask_LKR[places_P] = offered_PKR[taken_P], real_PKR[taken_P]


class Probe:
    """Measures a model every so many steps of its training."""

    def __init__(self, shape: ModelShape, config: TrainConfig, validation: Validation | None) -> None:
        """Choose the samples.

        Args:
            shape: The model. One that reads no neighbors is never probed.
            config: Says how often, and on how many samples.
            validation: The held-out split, which they are spread over.

        Raises:
            ConfigError: There is nothing to probe on.
        """
        self.shape, self.config = shape, config
        self.reads = config.probe_every > 0 and shape.model.retrieval and shape.model.gate != 0.0
        self._sources: dict[Reading, Validation] = {}
        if not self.reads:
            return
        samples = 0 if validation is None else min(config.probe_samples, validation.samples)
        if validation is None or samples < 2:
            need = f"0 without two sequences to probe on: the validation split has {samples}"
            raise ConfigError("train.probe_every", config.probe_every, f"needs to be {need}")
        numbers = np.arange(samples, dtype=np.int64) * validation.samples // samples
        for reading in READINGS:
            source = ProbeSource(validation.source, numbers, reading)
            self._sources[reading] = Validation(source=source, samples=samples)

    def due(self, step: int) -> bool:
        """Whether to measure after this step."""
        return self.reads and (step % self.config.probe_every == 0 or step == self.config.steps)

    def measure(self, engine: Engine[RetroModel], step: int) -> dict[str, float]:
        """`probe_real`, `probe_shuffled`, `probe_none`, and `gate_layer_<number>` of learned gates.

        Every rank calls this, and gets the same.
        """
        found = {}
        for reading, one in self._sources.items():
            loss, _ = mean_loss(engine.wrapped, self.shape, one, one.samples, self.config.micro_batch)
            found[_LOSS + reading] = loss
        found |= gates(engine.chunks)
        if parallel.is_main():
            log.info("step %d: %s", step, describe(found))
        return found


def gates(chunks: Sequence[RetroModel]) -> dict[str, float]:
    """The learned gates of all pipeline stages by their layer, counted from 1; none where they are constants."""
    here = {
        f"{_GATE}{layer.layer_number}": float(gate.detach().float())
        for chunk in chunks
        for layer in chunk.decoder.layers
        if (gate := getattr(layer.cross_attention, "learned_gate", None)) is not None
    }
    everywhere: dict[str, float] = {}
    for part in parallel.gather_objects(here):
        everywhere |= part
    return dict(sorted(everywhere.items(), key=lambda one: int(one[0].removeprefix(_GATE))))


def describe(found: Mapping[str, float]) -> str:
    """One line about a probe."""
    real, shuffled, none = (found[_LOSS + reading] for reading in READINGS)
    opened = [f"{value:.4f}" for name, value in found.items() if name.startswith(_GATE)]
    return (
        f"held-out loss with real neighbors {real:.4f}, {real - shuffled:+.4f} against other chunks' "
        f"({math.exp(real - shuffled) - 1:+.2%} perplexity), {real - none:+.4f} against none"
        + (f"; gates {', '.join(opened)}" if opened else "")
    )


def read_probes(path: Path) -> list[dict[str, float]]:
    """All probes in a training log, each with its step: the curve of a run."""
    return [
        {name: value for name, value in line.items() if name == "step" or name.startswith((_LOSS, _GATE))}
        for line in read_log(path)
        if _LOSS + "real" in line
    ]
