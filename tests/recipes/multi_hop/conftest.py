"""A run of the recipe that all tests of this folder share."""

from __future__ import annotations

import pytest

from retro.recipes.base import run_recipe
from retro.run.config import RunConfig
from tests.recipes.multi_hop.fact_run import RECIPE, small_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps run, at so few steps of training that nothing is learned."""
    config = small_run(tmp_path_factory.mktemp("few"))
    run_recipe(RECIPE, config)
    return config
