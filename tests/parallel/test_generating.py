"""Answers of a model spread over processes are those of one process: one of them searches and writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parallel.launch import launch_module
from tests.tiny_road import run_stages, small_config

pytestmark = pytest.mark.slow

SETTINGS = [
    "generate.settings=[retrieved_passages, live_retrieval]",
    "generate.retrieval_interval=3",
    "generate.max_new_tokens=9",
    "generate.sampling={temperature: 1.0, top_p: 0.9}",
    "generate.plain_output=true",
]
NAMES = ["questions.jsonl", "retrieved_passages.jsonl", "live_retrieval.jsonl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is tuned, with its answers by one process."""
    folder = tmp_path_factory.mktemp("tuned")
    run_stages(small_config(folder), "corpus", "db", "index", "neighbors", "pretrain", "sft")
    launch_module(1, "tests.parallel.generating_worker", str(folder), str(folder / "one"), *SETTINGS)
    return folder


@pytest.mark.parametrize("layout", ["{tensor: 2}", "{pipeline: 2}"])
def test_two_processes_answer_as_one(folder: Path, tmp_path: Path, layout: str) -> None:
    words = [*SETTINGS, f"parallel={layout}"]
    launch_module(2, "tests.parallel.generating_worker", str(folder), str(tmp_path / "two"), *words)
    for name in NAMES:
        assert (tmp_path / "two" / name).read_bytes() == (folder / "one" / name).read_bytes()
    assert (tmp_path / "two/manifest.json").exists()
