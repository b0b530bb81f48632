"""A frozen model on ranks that share its heads reads documents as it does in one process, stored or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.recipes.base import run_recipe
from retro.training.config import ParallelConfig
from tests.parallel.launch import launch_module
from tests.parallel.reading_worker import decode
from tests.recipes.dynamic_prefix.reading_run import RECIPE, make

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
"""Sums over ranks are formed in another order than those of one process."""
PREFIXES: dict[str, dict[str, Any]] = {
    "token states": {},
    "compressed, static, frozen projections": {"compress": 3, "static": 2, "projection": "frozen"},
}
STORED = (True, False)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each prefix the recipe's folder, with documents stored by one process in float32."""
    found = {}
    for name, settings in PREFIXES.items():
        made = make(tmp_path_factory.mktemp("reading"), **settings).with_settings(store={"dtype": "float32"})
        run_recipe(RECIPE, made.config, "encode", until=True)
        found[name] = made.home
    return found


@pytest.fixture(scope="module")
def decoded(homes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the logits of two ranks."""
    folder = tmp_path_factory.mktemp("logits")
    runs = [
        {"home": str(home), "layout": {"tensor": 2}, "stored": stored, "out": str(folder / f"{name} {stored}")}
        for name, home in homes.items()
        for stored in STORED
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    launch_module(2, "tests.parallel.reading_worker", str(folder / "runs.json"))
    return folder


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", PREFIXES)
def test_logits_of_both_ranks_equal_those_of_one_process(
    homes: dict[str, Path], decoded: Path, name: str, stored: bool
) -> None:
    expected = decode(homes[name], ParallelConfig(), stored=stored).numpy()
    found = [np.load(decoded / f"{name} {stored}_{rank}.npy") for rank in range(2)]
    assert expected.std() > 0.1
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=TOLERANCE, atol=TOLERANCE)
        assert np.array_equal(one, found[0])
