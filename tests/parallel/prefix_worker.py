"""One process of a test under gloo: trains a tiny prefix once for every run it is given, one after the other.

`python -m tests.parallel.prefix_worker RUNS.json`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from retro.mcore import parallel
from retro.recipes.dynamic_prefix.training.parts import encoder_of, prefix_of
from retro.training import loop
from retro.training.config import ParallelConfig
from tests.recipes.dynamic_prefix.tiny_prefix import prefix_config, train_prefix


def train_once(
    *,
    out: str,
    base: str,
    encoder: str,
    layout: dict[str, Any],
    model: dict[str, Any],
    prefix: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Train into `out`, and leave what every rank holds of the encoder and its gates."""
    engines: list[Any] = []
    build = loop.build_engine

    def built(*args: Any, **more: Any) -> Any:
        engines.append(build(*args, **more))
        return engines[-1]

    loop.build_engine = built
    try:
        train_prefix(
            Path(out), Path(base), Path(encoder), prefix_config(**prefix), model, ParallelConfig(**layout), **settings
        )
    finally:
        loop.build_engine = build
    model_here = engines[0].chunks[0]
    weights = {name: one.detach() for name, one in encoder_of(model_here).named_parameters()}
    torch.save(
        {"encoder": weights, "gates": prefix_of(model_here).gates.detach()}, f"{out}/rank{parallel.process()[0]}.pt"
    )


def do_all(runs: list[dict[str, Any]]) -> None:
    """Do what each of them says."""
    for one in runs:
        train_once(**one)


def main() -> None:
    """Do everything in the file."""
    do_all(json.loads(Path(sys.argv[1]).read_text()))
    parallel.stop()


if __name__ == "__main__":
    main()
