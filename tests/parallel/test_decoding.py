"""A model shared by several processes decodes and forks as it does in one, and all of them get the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.generate.loading import open_decoder
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.tiny import tiny_shape
from tests.parallel.decoding_worker import continue_prefix, decode
from tests.parallel.launch import launch_module
from tests.training.fake import CycleSource

pytestmark = pytest.mark.slow

Settings = dict[str, Any]

MODELS: dict[str, Settings] = {
    "retro": {"layers": 4, "query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm", "gate": 0.5},
    "gpt": {"layers": 4, "retrieval": False, "positions": "learned", "tied_embeddings": True, "bias": True},
}
LAYOUTS: dict[str, Settings] = {
    "TP2": {"tensor": 2},
    # Sharing the sequence between ranks means nothing for one token; it is ignored.
    "TP2 SP": {"tensor": 2, "sequence": True},
    "PP2": {"pipeline": 2},
    # The encoder is in layer 2, so embedded neighbors are sent to the second stage.
    "PP2 of 1 and 3 layers": {"pipeline": 2, "stage_layers": [1, 3]},
    "TP2 PP2": {"tensor": 2, "pipeline": 2},
    "PP4": {"pipeline": 4},
}
ADAPTED = "adapted"
"""Adapters on the Retro, merged into the shards of each rank or kept apart from them."""
OF_ADAPTERS = ("TP2", "PP2", "PP2 of 1 and 3 layers")
TOLERANCE = 2e-5
"""Sums over ranks are formed in another order than those of one process."""


def ranks(layout: Settings) -> int:
    return ParallelConfig(**layout).model_ranks


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of every model and the logits of every layout and rank."""
    folder = tmp_path_factory.mktemp("decoding")
    usual: Settings = {"steps": 1, "warmup_steps": 0, "micro_batch": 2, "global_batch": 2, "precision": "float32"}
    lora = {"lora": {"rank": 2}, "lr": 0.1}
    for name, settings in (MODELS | {ADAPTED: MODELS["retro"]}).items():
        train(
            out=folder / name,
            shape=tiny_shape(**settings),
            config=TrainConfig(**(usual | (lora if name == ADAPTED else {"lr": 1e-3}))),
            layout=ParallelConfig(),
            source=CycleSource(),
            validation=None,
            start_from=checkpoint.find(folder / "retro") if name == ADAPTED else None,
        )
    for processes in (2, 4):
        runs = [
            {"start": str(folder / model), "layout": layout, "out": str(folder / f"{model} {name}")}
            | {"reads": model == "retro"}
            for name, layout in LAYOUTS.items()
            for model in MODELS
            if ranks(layout) == processes
        ]
        runs += [
            {"start": str(folder / ADAPTED), "layout": LAYOUTS[name], "out": str(folder / f"{ADAPTED} {kept} {name}")}
            | {"reads": True, "separate": kept == "apart"}
            for name in OF_ADAPTERS
            for kept in ("merged", "apart")
            if ranks(LAYOUTS[name]) == processes
        ]
        plan = folder / f"runs_{processes}.json"
        plan.write_text(json.dumps(runs))
        launch_module(processes, "tests.parallel.decoding_worker", str(plan))
    return folder


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_of_every_rank_equal_those_of_one_process(decoded: Path, model: str, layout: str) -> None:
    alone = open_decoder(decoded / model, ParallelConfig(), 0)
    expected = decode(alone, reads=model == "retro", seed=11).numpy()
    found = [np.load(decoded / f"{model} {layout}_{rank}.npy") for rank in range(ranks(LAYOUTS[layout]))]
    assert expected.std() > 0.1
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=TOLERANCE, atol=TOLERANCE)
        # To the bit: ranks that draw tokens from these must draw the same.
        assert np.array_equal(one, found[0])


@pytest.mark.parametrize("kept", ["merged", "apart"])
@pytest.mark.parametrize("layout", OF_ADAPTERS)
def test_ranks_apply_adapters_as_one_process_does(decoded: Path, layout: str, kept: str) -> None:
    expected, plain = (
        decode(open_decoder(decoded / name, ParallelConfig(), 0), reads=True, seed=11).numpy()
        for name in (ADAPTED, "retro")
    )
    assert np.abs(expected - plain).max() > 0.1
    for rank in range(ranks(LAYOUTS[layout])):
        found = np.load(decoded / f"{ADAPTED} {kept} {layout}_{rank}.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_continuations_of_a_prefix_equal_those_of_one_process(decoded: Path, model: str, layout: str) -> None:
    alone = open_decoder(decoded / model, ParallelConfig(), 0)
    expected = continue_prefix(alone, reads=model == "retro").numpy()
    # Six answers of four tokens, two scores of three; samples of one prompt are equal, as all take the likeliest token.
    assert len(expected) == 6 * 4 + 2 * 3
    assert np.array_equal(expected[:4], expected[8:12])
    assert len(set(expected[12:24].tolist())) == 12
    for rank in range(ranks(LAYOUTS[layout])):
        found = np.load(decoded / f"{model} {layout}_{rank}_engine.npy")
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
