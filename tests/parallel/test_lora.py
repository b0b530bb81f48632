"""Adapters on layers that ranks share: losses and gradients of one process, and checkpoints that any layout reads.

Tolerance as between layouts of whole models: sums are formed in another order, 2e-5 relative in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.training import checkpoint
from retro.training.convert import merge
from tests.model.tiny import tiny_inputs
from tests.parallel.launch import curve, launch

pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 2e-5

Settings = dict[str, Any]

MODELS: dict[str, Settings] = {
    "retro": {"layers": 4, "query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm"},
    "gated retro": {"layers": 4, "gate": "learned", "tied_embeddings": True, "bias": True},
    # Only layer 1 reads neighbors, so the second of two stages has no adapter at all.
    "retrieval": {"layers": 4, "first_cross_attention": 1, "cross_attention_every": 4},
}
LORA: dict[str, Settings] = {name: {"rank": 2, "alpha": 8.0} for name in MODELS}
LORA["retrieval"]["where"] = "retrieval"
# Where ranks hold the same input they drop the same of it, and as one process does.
DROPPED: Settings = {
    "rank": 2, "dropout": 0.3, "targets": ["linear_qkv", "linear_fc1", "linear_q", "linear_kv"],
}  # fmt: skip
LAYOUTS: dict[str, Settings] = {
    "TP2": {"tensor": 2},
    "TP2 SP": {"tensor": 2, "sequence": True},
    "PP2": {"pipeline": 2},
    "PP2 VPP2": {"pipeline": 2, "virtual_pipeline": 2},
    "DP2 distributed optimizer": {"distributed_optimizer": True},
}
# Every layout trains one of them; the others where stages share a gate, or have nothing of their own to train.
RUNS: list[tuple[str, str]] = [
    *[(layout, "retro") for layout in LAYOUTS],
    ("TP2 SP", "gated retro"),
    ("PP2 VPP2", "gated retro"),
    ("PP2", "retrieval"),
    ("DP2 distributed optimizer", "retrieval"),
]


def place(folder: Path, *names: str) -> str:
    return str(folder / " ".join(names).replace(" ", "_"))


def run(folder: Path, model: str, name: str, layout: Settings, stop_after: int | None, **settings: Any) -> Settings:
    """Four steps on the base of a model, saved after the second and the last; it may be stopped before."""
    common = {"steps": 4, "save_every": 2, "lr": 1e-2, "lora": LORA[model]}
    return {
        "out": place(folder, model, name), "start": place(folder, model, "base"), "layout": layout,
        "model": MODELS[model], "settings": common | settings, "stop_after": stop_after,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run of this file: under each layout to step 3, and from its checkpoint of step 2 to step 4 in one process.

    `stopped` holds the curves up to step 3, which the run that continues replaces in the log.
    """
    folder = tmp_path_factory.mktemp("adapters")
    bases = [
        {"out": place(folder, model, "base"), "layout": {}, "model": shape, "settings": {"steps": 1}}
        for model, shape in MODELS.items()
    ]
    alone = [run(folder, model, "one process", {}, None) for model in MODELS]
    launch(1, [*bases, *alone, run(folder, "retro", "dropped", {}, 3, lora=DROPPED)], folder / "1")
    shared = [run(folder, model, name, LAYOUTS[name], 3) for name, model in RUNS]
    again = run(folder, "retro", "recomputed", LAYOUTS["TP2 SP"], 3, recompute="full")
    dropped = run(folder, "retro", "dropped TP2", LAYOUTS["TP2"], 3, lora=DROPPED)
    told = [
        {"tell": place(folder, "told", name) + ".npy", "start": place(folder, "retro", "one process"),
         "layout": layout, "model": MODELS["retro"]}
        for name, layout in {"one process": {}, **LAYOUTS}.items()
    ]  # fmt: skip
    launch(2, [*shared, again, dropped, *told[1:]], folder / "2")
    for one in shared:
        log = Path(one["out"]) / "log.jsonl"
        (folder / "stopped" / Path(one["out"]).name).mkdir(parents=True)
        shutil.copy(log, folder / "stopped" / Path(one["out"]).name)
    going_on = [run(folder, model, name, {}, None) for name, model in RUNS]
    launch(1, [*going_on, told[0]], folder / "3")
    return folder


@pytest.mark.parametrize(("layout", "model"), RUNS)
def test_losses_and_gradients_equal_one_process(trained: Path, layout: str, model: str) -> None:
    expected = curve(Path(place(trained, model, "one process")))
    found = curve(Path(place(trained / "stopped", model, layout)))
    assert len(set(found["loss"])) == 3
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name][: len(values)], rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize(("layout", "model"), RUNS)
def test_one_process_goes_on_from_what_a_layout_saved(trained: Path, layout: str, model: str) -> None:
    expected, found = (curve(Path(place(trained, model, name))) for name in ("one process", layout))
    assert len(found["loss"]) == 4
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


def test_recomputed_layers_equal_one_process(trained: Path) -> None:
    expected, found = (curve(Path(place(trained, "retro", name))) for name in ("one process", "recomputed"))
    assert len(found["loss"]) == 3
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name][: len(values)], rtol=RELATIVE_TOLERANCE, err_msg=name)


def test_ranks_drop_the_same_of_what_they_both_hold(trained: Path) -> None:
    expected, found, kept = (
        curve(Path(place(trained, "retro", name)))["loss"] for name in ("dropped", "dropped TP2", "one process")
    )
    assert len(found) == 3
    np.testing.assert_allclose(found, expected, rtol=RELATIVE_TOLERANCE)
    assert abs(found[2] - kept[2]) > 1e-3


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_loads_adapters_merged_into_its_shards(trained: Path, layout: str) -> None:
    expected, found = (np.load(place(trained, "told", name) + ".npy") for name in ("one process", layout))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_what_a_layout_saved_is_merged_in_one_process(trained: Path, layout: str, tmp_path: Path) -> None:
    # The checkpoint of step 2 is the layout's own.
    for name in (layout, "one process"):
        merge(checkpoint.find(Path(place(trained, "retro", name)), 2), tmp_path / name)
    expected, found = (checkpoint.load_model(tmp_path / name)[0] for name in ("one process", layout))
    inputs = tiny_inputs(30).args()
    with torch.no_grad():
        torch.testing.assert_close(found(*inputs), expected(*inputs), rtol=1e-3, atol=1e-3)
