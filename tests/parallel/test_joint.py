"""Retriever and reader trained together by two processes: losses of one, and a retriever that stays equal on both.

Documents come from an index that each process builds of the same snapshots. Tolerance as between layouts of whole
models: sums are formed in another order, 2e-5 relative in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parallel.joint_worker import train_once
from tests.parallel.launch import curve, launch_module
from tests.recipes.dynamic_prefix.joint_world import make_world, retriever_folder

pytest.importorskip("faiss")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 1e-4
"""Twelve steps at a learning rate of 3e-3: rounding grows with each."""
LAYOUTS: dict[str, dict[str, Any]] = {"DP2": {}, "TP2": {"tensor": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, and in two under every layout."""
    folder = tmp_path_factory.mktemp("joint")
    retriever = retriever_folder(folder / "retriever", make_world(persons=12, held_out=3))
    train_once(folder / "one", retriever, {})
    runs = [
        {"out": str(folder / name), "retriever": str(retriever), "layout": layout} for name, layout in LAYOUTS.items()
    ]
    plan = folder / "runs.json"
    plan.write_text(json.dumps(runs))
    launch_module(2, "tests.parallel.joint_worker", str(plan))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_those_of_one_process(folder: Path, layout: str) -> None:
    expected, found = curve(folder / "one"), curve(folder / layout)
    assert len(expected["loss"]) == 12
    for name in ("loss", "valid_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_retriever_stays_equal_on_both_and_snapshots_are_written_once(folder: Path, layout: str) -> None:
    first, second = (torch.load(folder / layout / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    names = sorted(one.name for one in (folder / layout / "snapshots").iterdir())
    assert names == [f"step_{step:08d}.safetensors" for step in (0, 4, 8)]
