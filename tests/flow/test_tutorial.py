"""The commands of docs/tutorial.md do what it says, typed in a shell, on a few pages in place of all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/tutorial.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
PAGES = ("generation.md", "serving.md", "corpus.md", "index.md", "training.md", "tuning.md", "evaluation.md", "plan.md")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each block printed, by its first line. The first block, which asks, needs the small chat model."""
    here = tmp_path_factory.mktemp("tutorial")
    (here / "docs").mkdir()
    for page in PAGES:
        shutil.copy(ROOT / "docs" / page, here / "docs" / page)
    (here / "bin").mkdir()
    (here / "bin/retro").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m retro "$@"\n')
    (here / "bin/retro").chmod(0o755)
    environment = os.environ | {"PATH": f"{here}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    environment |= {"RETRO_CACHE": str(here / "cache"), "HF_HUB_OFFLINE": "1"}
    printed = {}
    for block in BLOCKS[1:]:
        # A minute of training is for people; the length of a run is the only thing that is changed.
        script = block.replace("--until perplexity tutorial.yaml", "--until perplexity tutorial.yaml train.steps=12")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed[block.splitlines()[0]] = done.stdout + done.stderr
    return printed


def test_it_begins_with_a_question() -> None:
    assert BLOCKS[0].startswith("retro ask --documents docs ")


def test_a_run_is_written_built_and_looked_at(outputs: dict[str, str]) -> None:
    built = outputs["retro init docs --minutes 1 --output tutorial.yaml"]
    assert re.search(r"neighbors\W+done", built), built
    assert re.search(r"pretrain\W+missing", built), built
    assert "neighbor" in outputs["retro inspect neighbors 0 tutorial.yaml"]


def test_a_model_is_trained_and_measured(outputs: dict[str, str]) -> None:
    measured = outputs["retro run --until perplexity tutorial.yaml"]
    for neighbors in ("real", "shuffled", "none"):
        assert neighbors in measured
