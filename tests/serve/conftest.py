from __future__ import annotations

from pathlib import Path

import pytest

from retro.run.config import RunConfig
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run up to a tuned model, which has learned next to nothing."""
    folder: Path = tmp_path_factory.mktemp("serve")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft")
    return config
