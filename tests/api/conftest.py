"""One run for the tests of searching and answering: trained and tuned, its questions answered by the stage."""

from __future__ import annotations

import pytest

from retro import Run
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="package")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run up to its answers."""
    config = small_config(tmp_path_factory.mktemp("tuned"), "generate.passages=2", "generate.contexts_in_prompt=1")
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft", "generate")
    return Run(config)
