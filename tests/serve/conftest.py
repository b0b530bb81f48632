from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retro.run.config import RunConfig
from tests.serve.chromium import CHROMIUM, Browser, browser
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run up to a tuned model, which has learned next to nothing."""
    folder: Path = tmp_path_factory.mktemp("serve")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft")
    return config


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium to open the page in")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found
