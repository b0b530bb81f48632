"""Two processes train what one does: negatives and statistics are those of the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retro.common.errors import ConfigError
from tests.recipes.dense_retriever.fact_world import make_world
from tests.recipes.dense_retriever.runs import do
from tests.recipes.dense_retriever.test_train import SMALL, with_negatives

ROOT = Path(__file__).parents[3]
STILL = SMALL | {"start": SMALL["start"] | {"tiny": SMALL["start"]["tiny"] | {"dropout": 0.0}}}


KINDS: dict[str, dict[str, Any]] = {
    "info_nce": {"negatives": 1},
    "vicreg": {"objective": "vicreg"},
    "moco": {"objective": "moco", "moco": {"queue": 9}},
    "smoothed": {"label_smoothing": 0.1},
}  # fmt: skip


KEYS = ("key.bias",)
UNSEEN = {"vicreg": (*KEYS, "output.LayerNorm.bias")}


def together(home: Path, kinds: dict[str, Any]) -> None:
    """Train each kind in two processes; importing the libraries takes most of the time, so in the same two."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    command = [sys.executable, "-m", "tests.recipes.dense_retriever.several", str(home), json.dumps(kinds)]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [one.communicate()[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], said[0][-3000:] + said[1][-3000:]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    world = with_negatives(make_world(entities=6, relations=4, held_out=6, fillers=4))
    kinds = {name: {"train": STILL | {"evaluate_every": 0} | kind} for name, kind in KINDS.items()}
    for name, sections in kinds.items():
        for home in ("one", "two"):
            world.write(tmp_path / home / name / "recipe_toy")
        do(tmp_path / "one" / name, "train", **sections)
    together(tmp_path / "two", kinds)
    for kind in KINDS:
        model = Path(kind, "recipe_toy/train/model/model.safetensors")
        one, two = (load_file(tmp_path / home / model) for home in ("one", "two"))
        assert one.keys() == two.keys()
        for name, found in one.items():
            # A bias of all keys moves no attention, and VICReg does not see what is added to all vectors alike: such
            # gradients are rounding, which AdamW scales up to whole steps.
            if not name.endswith(UNSEEN.get(kind, KEYS)):
                assert torch.allclose(two[name], found, atol=2e-4, rtol=1e-3), f"{kind}: {name}"


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(entities=6, relations=4, held_out=6, fillers=4).write(tmp_path / "recipe_toy")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"batch_size = 4: needs a multiple of 3, the number of processes"):
        do(tmp_path, "train", train=SMALL)
