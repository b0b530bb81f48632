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
from tests.training.test_start import shape_of


@pytest.mark.parametrize("family", ["llama, grouped queries", "gpt2"])
@pytest.mark.parametrize("layout", ["tensor", "pipeline", "pipeline virtual_pipeline"])
def test_a_folder_loads_into_shards(family: str, layout: str, tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "folder", family)
    launch_module(2, "tests.parallel.test_start", str(tmp_path / "out"), str(tmp_path / "folder"), layout)
    model, _ = checkpoint.load_model(tmp_path / "out")
    inputs = tiny_inputs(16)
    with torch.no_grad():
        expected = plain(inputs.tokens_BS).logits
        torch.testing.assert_close(model(*inputs.args())[..., :ROWS], expected, rtol=1e-4, atol=1e-4)


def main() -> None:
    """What each process does: start from the folder, and take a step too small to change a weight."""
    out, folder, layout = sys.argv[1:]
    train(
        out=Path(out),
        shape=shape_of(Path(folder), sequence_length=16),
        config=TrainConfig(steps=1, lr=1e-30, warmup_steps=0, micro_batch=2, global_batch=4),
        layout=ParallelConfig(**dict.fromkeys(layout.split(), 2)),
        source=CycleSource(),
        validation=None,
        start_from=Path(folder),
    )


if __name__ == "__main__":
    main()
