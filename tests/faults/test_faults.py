"""A stage whose disk fails ends with one line, and makes the same bytes when it is run again: a sample of all failures.

`python -m tests.faults` tries every one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retro.run.config import as_yaml
from retro.run.pipeline import STAGES
from tests.faults.inject import KINDS, Server, build_shim, inject, prepare, serving
from tests.tiny_road import run_stages, small_config

pytestmark = pytest.mark.slow

STAGE_NAMES = [one.name for one in STAGES if one.name != "perplexity"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and its settings."""
    folder = tmp_path_factory.mktemp("faults")
    config = small_config(folder, "evaluate.bootstrap_samples=50")
    run_stages(config, *(one.name for one in STAGES))
    (folder / "run.yaml").write_text(as_yaml(config))
    return config.run_dir, folder / "run.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    shim = build_shim(tmp_path_factory.mktemp("shim"))
    if shim is None:
        pytest.skip("there is no C compiler to build what makes calls fail")
    with serving(shim) as one:
        yield one


@pytest.mark.parametrize(
    ("name", "kind"), [(name, [*KINDS][number % len(KINDS)]) for number, name in enumerate(STAGE_NAMES)]
)
def test_a_failing_disk_is_one_line_and_the_next_run_makes_the_same_bytes(
    server: Server, run: tuple[Path, Path], tmp_path: Path, name: str, kind: str
) -> None:
    # Drawn again when the number of calls changes.
    number = int(np.random.default_rng(STAGE_NAMES.index(name)).integers(1 << 30))
    tried = inject(server, *run, name, kind, tmp_path, numbers=[number])
    assert tried.wrong == []
    assert (tried.failures, tried.identical, tried.one_line + tried.survived) == (1, 1, 1)


def test_calls_are_counted_and_the_failure_is_the_one_that_was_asked_for(
    server: Server, run: tuple[Path, Path], tmp_path: Path
) -> None:
    finished, config = run
    out = prepare(finished, "db", tmp_path / "run")
    arguments = ["db", str(config), f"run_dir={out}"]
    found = server.run(arguments, out, 3, KINDS["full"])
    assert found["code"] == 2
    assert "no space left" in found["errors"].lower() or "disk is full" in found["errors"]
    # Whatever needs space fails from then on, so little is tried.
    assert 3 <= found["calls"] < server.run(arguments, out)["calls"]
