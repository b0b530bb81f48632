"""Adapters that were taught to count: one up, one down, on the same base that can do neither."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.training import checkpoint
from retro.training.batch import Batch
from tests.model.tiny import VOCABULARY
from tests.training.fake import CycleSource
from tests.training.test_lora import adapted, made

GPT: dict[str, Any] = {
    "retrieval": False, "query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm", "hidden_size": 32,
    "init_std": 0.2,
}  # fmt: skip
RETRO = GPT | {"retrieval": True}


class StrideSource(CycleSource):
    """Sample n counts in steps of `stride`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by number."""
        batch = super().fetch(sample_numbers)
        whole = np.concatenate([batch.tokens_BS[:, :1], batch.labels_BS], axis=1)
        whole = (whole[:, :1] + self.stride * np.arange(whole.shape[1])) % VOCABULARY
        return replace(batch, tokens_BS=whole[:, :-1], labels_BS=whole[:, 1:])


STRIDES = {"up": 1, "down": -1}
LORAS: dict[str, dict[str, Any]] = {"up": {"rank": 8, "alpha": 16.0}, "down": {"rank": 6, "alpha": 24.0}}


def counting(folder: Path, **model: Any) -> tuple[Path, dict[str, Path]]:
    """A base, and the adapters by name. Their ranks and scales differ."""
    base = made(folder / "base", **model)
    found = {}
    for name, stride in STRIDES.items():
        settings = {"steps": 80, "lr": 0.02, "save_every": 80, "evaluate_every": 80} | model
        found[name] = adapted(folder / name, base, LORAS[name], source=StrideSource(stride), **settings)
        assert checkpoint.read_info(found[name]).adapters is not None
    return base, found
