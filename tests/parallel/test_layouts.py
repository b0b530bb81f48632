"""Every layout has the losses and gradients of one process, and one process those of the plain reference.

Under gloo, in processes of their own. All layouts start from one checkpoint, since each stage would draw other
initial weights. Tolerance: sums over ranks are formed in another order, so float32 losses and gradient norms over
three steps agree to 2e-5 relative, not to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.training import checkpoint
from tests.model.tiny import tiny_shape
from tests.parallel.launch import curve, launch
from tests.parallel.reference_training import reference_curve

pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 2e-5

Settings = dict[str, Any]

MODELS: dict[str, Settings] = {
    "retro": {"layers": 4, "query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm"},
    # A gate that is learned is one number whose gradient every token has a part in.
    "gated retro": {"layers": 4, "gate": "learned", "tied_embeddings": True, "bias": True},
    "gpt": {"layers": 4, "retrieval": False, "positions": "learned", "tied_embeddings": True, "bias": True},
}
TWO: dict[str, Settings] = {
    "TP2": {"tensor": 2},
    "TP2 SP": {"tensor": 2, "sequence": True},
    "PP2": {"pipeline": 2},
    "PP2 VPP2": {"pipeline": 2, "virtual_pipeline": 2},
    # The encoder of a Retro is in layer 2, so with its first layers elsewhere it is on the second stage.
    "PP2 of 1 and 3 layers": {"pipeline": 2, "stage_layers": [1, 3]},
    "DP2": {},
    "DP2 distributed optimizer": {"distributed_optimizer": True},
}
FOUR: dict[str, Settings] = {
    "TP2 PP2": {"tensor": 2, "pipeline": 2},
    "TP2 SP PP2 VPP2": {"tensor": 2, "sequence": True, "pipeline": 2, "virtual_pipeline": 2},
    "TP2 DP2": {"tensor": 2},
    "PP2 DP2 distributed optimizer": {"pipeline": 2, "distributed_optimizer": True},
    "PP4": {"pipeline": 4},
}


# Every layout trains a Retro. What else a model or a batch may have is tried where a layout treats it in a way of its
# own: weights that stages share, a number that ranks of a sequence share, samples whose borders travel between stages.
OF_MODEL: dict[str, tuple[str, ...]] = {
    "retro": (*TWO, *FOUR),
    "gated retro": ("TP2 SP", "PP2", "DP2 distributed optimizer", "TP2 SP PP2 VPP2"),
    "gpt": ("TP2", "PP2 VPP2", "DP2", "PP4"),
}
RAGGED = ("TP2 SP", "PP2 VPP2", "PP2 of 1 and 3 layers", "DP2", "TP2 PP2")
PACKED = ("TP2 SP", "PP2 VPP2", "DP2", "TP2 SP PP2 VPP2")
TOLD = ("TP2 SP", "PP2 VPP2", "DP2", "TP2 DP2", "PP4")
ALONE = "one process"


def place(folder: Path, model: str, layout: str, ragged: bool = False) -> str:
    return str(folder / f"{model} {layout} {ragged}".replace(" ", "_"))


# Stopped before their end, so that nothing is saved: what is saved has tests of its own.
THREE_OF_FOUR: Settings = {"settings": {"steps": 4, "save_every": 4}, "stop_after": 3}


def runs(folder: Path, layouts: dict[str, Settings]) -> list[Settings]:
    """Three steps of every model under its layouts, from the one checkpoint."""
    of_one_length = [
        {"out": place(folder, model, name), "start": place(folder, model, "start"), "layout": layout, "model": shape}
        | THREE_OF_FOUR
        for name, layout in layouts.items()
        for model, shape in MODELS.items()
        if name in (ALONE, *OF_MODEL[model])
    ]
    retro: Settings = {"start": place(folder, "retro", "start"), "model": MODELS["retro"]} | THREE_OF_FOUR
    ragged = [
        {"out": place(folder, "retro", name, ragged=True), "layout": layout, "ragged": True} | retro
        for name, layout in layouts.items()
        if name in (ALONE, *RAGGED)
    ]
    packed = [
        {"out": place(folder, "packed retro", name), "layout": layout, "packed": True} | retro
        for name, layout in layouts.items()
        if name in (ALONE, *PACKED)
    ]
    return of_one_length + ragged + packed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run of this file; one start of processes for each number of them."""
    folder = tmp_path_factory.mktemp("layouts")
    first = {"steps": 1}
    starts = [
        {"out": place(folder, model, "start"), "layout": {}, "model": shape, "settings": first}
        for model, shape in MODELS.items()
    ]
    alone: dict[str, Settings] = {ALONE: {}}
    launch(1, starts + runs(folder, alone) + telling(folder, alone), folder / "1")
    recomputed: Settings = {
        "out": str(folder / "recomputed"),
        "start": place(folder, "gated retro", "start"),
        "layout": TWO["TP2 SP"],
        "model": MODELS["gated retro"],
        "settings": THREE_OF_FOUR["settings"] | {"recompute": "selective"},
        "stop_after": THREE_OF_FOUR["stop_after"],
    }
    launch(2, [*runs(folder, TWO), recomputed, *telling(folder, TWO)], folder / "2")
    launch(4, runs(folder, FOUR) + telling(folder, FOUR), folder / "4")
    return folder


def telling(folder: Path, layouts: dict[str, Settings]) -> list[Settings]:
    """Validation of one checkpoint under every layout, told label by label."""
    return [
        {"tell": place(folder, "told", name) + ".npy", "start": place(folder, "retro", "start"), "layout": layout}
        | {"model": MODELS["retro"]}
        for name, layout in layouts.items()
        if name in (ALONE, *TOLD)
    ]


@pytest.mark.parametrize(
    ("layout", "model"), [(layout, model) for model, layouts in OF_MODEL.items() for layout in layouts]
)
def test_losses_and_gradients_equal_one_process(trained: Path, layout: str, model: str) -> None:
    expected = curve(Path(place(trained, model, ALONE)))
    found = curve(Path(place(trained, model, layout)))
    assert len(found["loss"]) == 3
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


def test_recomputed_feed_forward_layers_of_a_shared_model_equal_one_process(trained: Path) -> None:
    expected, found = curve(Path(place(trained, "gated retro", ALONE))), curve(trained / "recomputed")
    assert len(found["loss"]) == 3
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layout", RAGGED)
def test_batches_of_many_lengths_equal_one_process(trained: Path, layout: str) -> None:
    expected = curve(Path(place(trained, "retro", ALONE, ragged=True)))
    found = curve(Path(place(trained, "retro", layout, ragged=True)))
    assert len(found["loss"]) == 3
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layout", PACKED)
def test_samples_in_a_row_equal_one_process(trained: Path, layout: str) -> None:
    expected = curve(Path(place(trained, "packed retro", ALONE)))
    assert expected["loss"] != curve(Path(place(trained, "retro", ALONE)))["loss"]
    found = curve(Path(place(trained, "packed retro", layout)))
    assert len(found["loss"]) == 3
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layout", TOLD)
def test_validation_tells_every_label_of_every_sample_once(trained: Path, layout: str) -> None:
    expected = np.load(place(trained, "told", ALONE) + ".npy")
    found = np.load(place(trained, "told", layout) + ".npy")
    assert expected.shape == (7, 16)
    assert (expected > 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("model", list(MODELS))
def test_one_process_equals_the_reference_under_an_optimizer_of_torch(trained: Path, model: str) -> None:
    start, _ = checkpoint.load_model(Path(place(trained, model, "start")))
    weights = {name: value.detach().to(torch.float32) for name, value in start.named_parameters()}
    losses, norms = reference_curve(tiny_shape(**MODELS[model]), weights, steps=3, decay_steps=4, lr=1e-3)
    found = curve(Path(place(trained, model, ALONE)))
    np.testing.assert_allclose(found["loss"], losses, rtol=RELATIVE_TOLERANCE)
    np.testing.assert_allclose(found["grad_norm"], norms, rtol=RELATIVE_TOLERANCE)
