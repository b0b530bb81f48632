"""A HuggingFace folder spread over ranks while it is loaded is the same model: saved there, opened in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from retro.model.convert.source import AddedTokens
from retro.model.weight_names import EMBEDDING, OUTPUT
from retro.training import checkpoint
from retro.training.config import LoraConfig, ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.convert.folders import ROWS, make_folder
from tests.model.tiny import tiny_inputs
from tests.parallel.launch import launch_module
from tests.training.fake import CycleSource
from tests.training.test_init_from import shape_of

FAMILIES = ("llama, grouped queries", "qwen2", "qwen3", "phi3", "smollm3", "gpt2")
ADDED = ("llama, grouped queries", "gpt2")
"""An output layer of its own, and one tied to the embedding."""
LAYOUTS = ("tensor", "pipeline", "pipeline virtual_pipeline")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, and what two processes made of it under each layout."""
    place = tmp_path_factory.mktemp("started")
    for family in FAMILIES:
        make_folder(place / family, family)
    for family in ADDED:
        # What reads neighbors starts at random, and otherwise under another layout.
        begin(place / family, place / f"whole {family}", {})
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ADDED)
def test_added_tokens_learn_alike_under_every_layout(family: str, layout: str, started: Path, tmp_path: Path) -> None:
    train_added(started / f"whole {family}", tmp_path, {})
    alone, spread = (checkpoint.load_model(path)[0] for path in (tmp_path, started / f"added {family} {layout}"))
    weights = dict(alone.named_parameters())
    for name, weight in spread.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=5e-5)
    rows = weights[OUTPUT if OUTPUT in weights else EMBEDDING]
    assert not torch.allclose(rows[ROWS], rows[: ROWS - 2].mean(0), atol=1e-4)


def train_added(base: Path, out: Path, layout: dict[str, int]) -> None:
    """Adapters on a model, and three tokens beside its own; two rows of it are not token's."""
    theirs = checkpoint.read_info(checkpoint.find(base)).shape
    train(
        out=out,
        shape=theirs.model_copy(update={"vocabulary": theirs.vocabulary + 3, "tokenizer": "new"}),
        config=TrainConfig(
            steps=4, lr=1e-2, warmup_steps=0, micro_batch=2, global_batch=4, precision="float32",
            epsilon=1e-2,  # Adam's steps of one size would amplify the rounding of gradients near zero
            lora=LoraConfig(rank=2),
        ),
        layout=ParallelConfig(**layout),
        source=CycleSource(),
        validation=None,
        start_from=base,
        added=AddedTokens(shape=theirs, known=ROWS - 2),
    )  # fmt: skip


def main() -> None:
    """What each process does: start from every folder, and take a step too small to change a weight."""
    place = Path(sys.argv[1])
    for family in ADDED:
        for layout in LAYOUTS:
            train_added(place / f"whole {family}", place / f"added {family} {layout}", dict.fromkeys(layout.split(), 2))
    for family in FAMILIES:
        for layout in LAYOUTS:
            begin(place / family, place / f"{family} {layout}", dict.fromkeys(layout.split(), 2))


def begin(folder: Path, out: Path, layout: dict[str, int]) -> None:
    """Start from a folder, and take a step too small to change a weight."""
    train(
        out=out,
        shape=shape_of(folder, sequence_length=16),
        config=TrainConfig(steps=1, lr=1e-30, warmup_steps=0, micro_batch=2, global_batch=4, precision="float32"),
        layout=ParallelConfig(**layout),
        source=CycleSource(),
        validation=None,
        start_from=folder,
    )


if __name__ == "__main__":
    main()
