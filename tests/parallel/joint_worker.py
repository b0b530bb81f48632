"""One process of a test under gloo: trains retriever and reader together once for every run it is given.

`python -m tests.parallel.joint_worker RUNS.json`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from retro.mcore import parallel
from retro.recipes.dynamic_prefix.joint.training import train_joint
from retro.training.config import ParallelConfig
from tests.recipes.dynamic_prefix.joint_world import joint_config, joint_parts, make_world

TRAIN: dict[str, Any] = {"micro_batch": 4, "log_every": 1, "save_every": 6, "evaluate_every": 6, "warmup_steps": 0}


def train_once(out: Path, retriever: Path, layout: dict[str, Any]) -> None:
    """Twelve steps into `out`, with two refreshes of the index; leaves what every rank holds of the retriever."""
    config = joint_config(retriever, 12, documents=3, refresh_every=4, refresh_delay=3, train=TRAIN)
    parts = joint_parts(config, make_world(persons=12, held_out=3))
    train_joint(config, parts, ParallelConfig(**layout), out)
    weights = {name: one.detach().clone() for name, one in parts.retriever.named_parameters()}
    torch.save(weights, out / f"rank{parallel.process()[0]}.pt")


def main() -> None:
    """Do everything in the file."""
    for one in json.loads(Path(sys.argv[1]).read_text()):
        train_once(Path(one["out"]), Path(one["retriever"]), one["layout"])
    parallel.stop()


if __name__ == "__main__":
    main()
