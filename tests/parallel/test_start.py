"""A HuggingFace folder spread over ranks while it is loaded is the same model: saved there, opened in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.convert.folders import ROWS, make_folder
from tests.model.tiny import tiny_inputs
from tests.parallel.launch import launch_module
from tests.training.fake import CycleSource
from tests.training.test_init_from import shape_of

FAMILIES = ("llama, grouped queries", "qwen2", "qwen3", "phi3", "smollm3", "gpt2")
LAYOUTS = ("tensor", "pipeline", "pipeline virtual_pipeline")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, and what two processes made of it under each layout."""
    place = tmp_path_factory.mktemp("started")
    for family in FAMILIES:
        make_folder(place / family, family)
    launch_module(2, "tests.parallel.test_start", str(place))
    return place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_loads_into_shards(family: str, layout: str, started: Path, tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "again", family)
    model, _ = checkpoint.load_model(started / f"{family} {layout}")
    inputs = tiny_inputs(16)
    with torch.no_grad():
        expected = plain(inputs.tokens_BS).logits
        torch.testing.assert_close(model(*inputs.args())[..., :ROWS], expected, rtol=1e-4, atol=1e-4)


def main() -> None:
    """What each process does: start from every folder, and take a step too small to change a weight."""
    place = Path(sys.argv[1])
    for family in FAMILIES:
        for layout in LAYOUTS:
            train(
                out=place / f"{family} {layout}",
                shape=shape_of(place / family, sequence_length=16),
                config=TrainConfig(
                    steps=1, lr=1e-30, warmup_steps=0, micro_batch=2, global_batch=4, precision="float32"
                ),
                layout=ParallelConfig(**dict.fromkeys(layout.split(), 2)),
                source=CycleSource(),
                validation=None,
                start_from=place / family,
            )


if __name__ == "__main__":
    main()
