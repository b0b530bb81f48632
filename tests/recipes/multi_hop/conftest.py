"""A run of the recipe that all tests of this folder share."""

from __future__ import annotations

import pytest

from retro.recipes.base import run_recipe
from retro.run.config import RunConfig
from tests.recipes.multi_hop.fact_run import RECIPE, config_of


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps run, at so few steps of training that nothing is learned."""
    config = config_of(tmp_path_factory.mktemp("few"), steps=3, items=64, questions=10, export=True)
    run_recipe(RECIPE, config)
    return config
