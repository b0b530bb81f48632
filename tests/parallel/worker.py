"""One process of a test under gloo: trains a tiny model once for every run it is given, one after the other.

`python -m tests.parallel.worker RUNS.json`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.mcore import checkpoint, parallel
from retro.mcore.engine import StepResult
from retro.training import loop
from retro.training.checkpoint import load_stage
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import build_engine, train
from retro.training.validation import Validation, mean_loss
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource

SETTINGS: dict[str, Any] = {
    "steps": 5,
    "micro_batch": 2,
    "global_batch": 8,
    "lr": 1e-3,
    "warmup_steps": 0,
    "precision": "float32",
    "log_every": 1,
    "evaluate_every": 3,
    "evaluate_samples": 7,
    "save_every": 3,
}


class _StoppedError(Exception):
    """The run was to end here."""


def train_once(
    *,
    out: str,
    start: str | None = None,
    layout: dict[str, Any],
    model: dict[str, Any],
    settings: dict[str, Any] | None = None,
    stop_after: int | None = None,
    ragged: bool = False,
    packed: bool = False,
) -> None:
    """Train one model into `out`, from the weights of `start`; stop after a step as a kill on all ranks would."""
    one_step = loop._one_step

    def step(engine: Any, feed: Any, config: TrainConfig, number: int, *more: Any) -> StepResult:
        if stop_after is not None and number > stop_after:
            raise _StoppedError
        return one_step(engine, feed, config, number, *more)

    source = CycleSource(ragged=ragged, packed=packed)
    loop._one_step = step  # type: ignore[assignment]
    try:
        train(
            out=Path(out),
            shape=tiny_shape(**model),
            config=TrainConfig(**(SETTINGS | (settings or {}))),
            layout=ParallelConfig(**layout),
            source=source,
            validation=Validation(source=source, samples=7),
            start_from=None if start is None else Path(start),
        )
    except _StoppedError:
        pass
    finally:
        loop._one_step = one_step


def reshard(
    *, read: str, write: str, layout: dict[str, Any], model: dict[str, Any], settings: dict[str, Any] | None = None
) -> None:
    """Read a checkpoint's whole state under a layout and write it again."""
    config = TrainConfig(**(SETTINGS | (settings or {})))
    engine = build_engine(tiny_shape(**model), config, ParallelConfig(**layout))
    engine.resume(Path(read))
    if parallel.is_main():
        Path(write).mkdir(parents=True)
    parallel.barrier()
    checkpoint.save(engine.state(), Path(write))


def tell_losses(*, tell: str, start: str, layout: dict[str, Any], model: dict[str, Any]) -> None:
    """Save the [samples, S] losses that validation tells under a layout, as an array."""
    chunks, info = load_stage(Path(start), ParallelConfig(**layout))
    source, samples = CycleSource(), 7
    told = np.zeros((samples, source.length))

    def add(numbers_B: NDArray[np.int64], losses_BS: NDArray[np.float32], mask_BS: NDArray[np.float32]) -> None:
        real_B = numbers_B >= 0
        told[numbers_B[real_B]] += (losses_BS * mask_BS)[real_B]

    loss, tokens = mean_loss(chunks, info.shape, Validation(source=source, samples=samples), samples, 2, add)
    total = parallel.sum_of_last_stages(told)
    np.testing.assert_allclose(total.sum() / tokens, loss, rtol=1e-6)
    if parallel.is_main():
        np.save(tell, total)
    parallel.barrier()


def do_all(runs: list[dict[str, Any]]) -> None:
    """Do what each of them says."""
    for one in runs:
        task = reshard if "read" in one else tell_losses if "tell" in one else train_once
        task(**one)


def main() -> None:
    """Do everything in the file."""
    do_all(json.loads(Path(sys.argv[1]).read_text()))
    parallel.stop()


if __name__ == "__main__":
    main()
