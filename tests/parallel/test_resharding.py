"""A run continues under another layout as if nothing had happened, and resharding loses no bit of its state.

Tolerance of the curve: as between layouts, 2e-5 relative, since sums are formed in another order from then on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tests.parallel.launch import curve, launch

pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 2e-5

Settings = dict[str, Any]

MODEL: Settings = {"layers": 4, "query_groups": 2, "activation": "swiglu", "tied_embeddings": True, "gate": "learned"}
# Warm-up and decay continue over both changes; dropout would be drawn again for every layout.
STEPS: Settings = {"steps": 9, "warmup_steps": 2, "save_every": 3, "evaluate_every": 3}


def test_one_curve_over_three_layouts(tmp_path: Path) -> None:
    weights = str(tmp_path / "weights")
    common: Settings = {"start": weights, "model": MODEL, "settings": STEPS}
    changing, unbroken = str(tmp_path / "changing"), str(tmp_path / "unbroken")
    first = {"out": weights, "layout": {}, "model": MODEL, "settings": {"steps": 1}}
    launch(1, [first, common | {"out": unbroken, "layout": {}}], tmp_path / "1")
    # Step 4 is lost with the kill and taken again.
    legs = [
        (4, common | {"out": changing, "layout": {"tensor": 2, "pipeline": 2}, "stop_after": 4}),
        (2, common | {"out": changing, "layout": {"distributed_optimizer": True}, "stop_after": 6}),
        (2, common | {"out": changing, "layout": {"tensor": 2, "sequence": True}}),
    ]
    for number, (processes, leg) in enumerate(legs):
        launch(processes, [leg], tmp_path / f"leg{number}")
    expected, found = curve(Path(unbroken)), curve(Path(changing))
    assert len(found["loss"]) == 9
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


def test_a_stage_without_anything_to_train_goes_on_too(tmp_path: Path) -> None:
    # Only layer 1 reads neighbors, so the second stage is frozen as a whole; then the first is, of four.
    model = {"layers": 4, "first_cross_attention": 1, "cross_attention_every": 4}
    last = {"layers": 4, "first_cross_attention": 4}
    frozen: Settings = {"settings": STEPS | {"train_only": "retrieval"}}
    runs = {"first": model, "last": last}
    unbroken = [frozen | {"out": str(tmp_path / f"{name} unbroken"), "start": str(tmp_path / name), "layout": {},
                          "model": one} for name, one in runs.items()]  # fmt: skip
    starts = [
        {"out": str(tmp_path / name), "layout": {}, "model": one, "settings": {"steps": 1}}
        for name, one in runs.items()
    ]
    launch(1, starts + unbroken, tmp_path / "1")
    for layout, stop in (({"pipeline": 2}, 4), ({"pipeline": 2, "distributed_optimizer": True}, None)):
        legs = [one | {"out": one["out"].replace("unbroken", "changing"), "layout": layout, "stop_after": stop}
                for one in unbroken]  # fmt: skip
        launch(2, legs, tmp_path / f"stop {stop}")
    for name in runs:
        expected, found = (curve(tmp_path / f"{name} {which}") for which in ("unbroken", "changing"))
        assert len(found["loss"]) == 9
        # Gradient norms of what is trained are small sums of large terms.
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=RELATIVE_TOLERANCE)


CHAIN: list[tuple[int, Settings]] = [
    (4, {"tensor": 2, "pipeline": 2}),
    (2, {"distributed_optimizer": True}),
    (4, {"pipeline": 2, "virtual_pipeline": 2, "distributed_optimizer": True, "stage_layers": [1, 1, 1, 1]}),
    (1, {}),
]


@pytest.fixture(scope="module")
def resharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The state of a run, by precision, written under one layout after another; each read what the last one wrote."""
    folder = tmp_path_factory.mktemp("resharded")
    common: dict[str, Settings] = {
        precision: {"model": MODEL, "settings": {"precision": precision, "steps": 3}}
        for precision in ("float32", "bfloat16")
    }
    launch(1, [one | {"out": str(folder / name / "0"), "layout": {}} for name, one in common.items()], folder / "runs")
    written = {name: [folder / name / "0/checkpoints/step_00000003"] for name in common}
    for number, (processes, layout) in enumerate(CHAIN, start=1):
        links = [
            one | {"layout": layout, "read": str(written[name][-1]), "write": str(folder / name / str(number))}
            for name, one in common.items()
        ]
        launch(processes, links, folder / "runs")
        for name, paths in written.items():
            paths.append(folder / name / str(number))
    return written


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, read by torch alone."""
    found = FileSystemReader(str(path)).read_metadata().state_dict_metadata
    state: dict[str, Any] = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in found.items()
        if isinstance(one, TensorStorageMetadata)
    }
    load(state, storage_reader=FileSystemReader(str(path)), no_dist=True)
    return state


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resharding_loses_no_bit(resharded: dict[str, list[Path]], precision: str) -> None:
    first, *rest = resharded[precision]
    before = tensors(first)
    moments = [name for name in before if name.startswith("optimizer.state.exp_avg_sq.")]
    assert len(moments) == sum(not name.startswith("optimizer.") for name in before)
    for path in rest:
        after = tensors(path)
        assert set(after) == set(before)
        assert not [f"{path}: {name}" for name, value in after.items() if not torch.equal(value, before[name])]
