"""Corpora take turns as in megatron.core's own BlendedDataset."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.utils import Split

from retro.mcore.blending import blend


class Sized:
    """A dataset that BlendedDataset asks for its length alone."""

    index_split = Split.train

    def __init__(self, number: int) -> None:
        self.unique_identifiers = {"number": number}

    def __len__(self) -> int:
        return 1 << 20


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.2, 0.5, 0.3), (1.0, 1.0, 1.0, 1e-3), (7.0,)])
def test_samples_come_from_the_corpora_in_the_order_of_megatron(weights: tuple[float, ...]) -> None:
    config: Any = SimpleNamespace(path_to_cache=None, defer_npy_index_mmap=False)
    datasets = cast(Any, [Sized(number) for number in range(len(weights))])
    theirs = BlendedDataset(datasets, list(weights), 5_000, config)
    corpus, number = blend([weight / sum(weights) for weight in weights], 5_000)
    assert corpus.tolist() == theirs.dataset_index.tolist()
    assert number.tolist() == theirs.dataset_sample_index.tolist()
    assert np.bincount(corpus, minlength=len(weights)).min() > 0
