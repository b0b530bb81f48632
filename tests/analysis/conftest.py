from __future__ import annotations

from pathlib import Path

import pytest

from retro.run.config import RunConfig
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of four stages, in which titles of documents try to break out of the page."""
    folder: Path = tmp_path_factory.mktemp("inspect")
    config = small_config(folder)
    text = folder / "text.jsonl"
    titles = text.read_text(encoding="utf-8").replace('"title": "', '"title": "<b onclick=x>& ')
    text.write_text(titles, encoding="utf-8")
    run_stages(config, "corpus", "db", "index", "neighbors")
    return config
