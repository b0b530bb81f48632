"""Where an embedding model runs."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from retro.common.launcher import worker_of

# A worker's number on its machine, as torchrun and Slurm say it.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def device(environment: Mapping[str, str] = os.environ) -> str:
    """`cpu`, or this process's GPU: each worker of a machine has its own, and they share when there are fewer."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "cpu"
    local = next((environment[name] for name in _LOCAL_RANKS if name in environment), None)
    number = worker_of(environment).rank if local is None else int(local)
    return f"cuda:{number % count}"
