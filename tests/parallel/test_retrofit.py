"""Rates of their own, adapters beside whole retrieval weights, and probes: under any layout as in one process.

Tolerance as between layouts of whole models: sums are formed in another order, 2e-5 relative in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.training.probe import read_probes
from tests.parallel.launch import curve, launch

pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 2e-5

Settings = dict[str, Any]

SHAPE: Settings = {
    "layers": 4, "gate": "learned", "gate_init": 0.1, "encoder_norm": True, "cross_values": "next", "query_groups": 2,
    "activation": "swiglu", "normalization": "RMSNorm",
}  # fmt: skip
RATES: Settings = {"retrieval_rates": {"lr_factor": 3.0, "gate_lr_factor": 10.0, "warmup_steps": 2}}
RUNS: dict[str, Settings] = {
    "all": {},
    "retrieval": {"train_only": "retrieval"},
    "adapters": {"train_only": "retrieval", "lora": {"rank": 2, "where": "decoder"}},
}
LAYOUTS: dict[str, Settings] = {
    "TP2 SP": {"tensor": 2, "sequence": True},
    "PP2": {"pipeline": 2},
    "PP2 VPP2": {"pipeline": 2, "virtual_pipeline": 2},
    "DP2 distributed optimizer": {"distributed_optimizer": True},
}
# Every layout trains everything; a part, where ranks share a layer and where one of them has none of it.
UNDER: list[tuple[str, str]] = [
    *[(layout, "all") for layout in LAYOUTS],
    ("PP2", "retrieval"),
    ("DP2 distributed optimizer", "retrieval"),
    ("TP2 SP", "adapters"),
    ("PP2 VPP2", "adapters"),
]


def run(folder: Path, name: str, layout: str, stop_after: int | None = None) -> Settings:
    """Four steps from the base, saved after the second and the last; it may be stopped before."""
    common: Settings = {"steps": 4, "save_every": 2, "lr": 1e-2, "probe_every": 1, "probe_samples": 6}
    return {
        "out": str(folder / f"{name} {layout}".replace(" ", "_")), "start": str(folder / "base"),
        "layout": LAYOUTS.get(layout, {}), "model": SHAPE, "settings": common | RATES | RUNS[name],
        "stop_after": stop_after,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each run in one process; under each layout to step 3, and from its checkpoint of step 2 to step 4 in one process.

    `stopped` holds the logs up to step 3, which the run that continues replaces.
    """
    folder = tmp_path_factory.mktemp("retrofit")
    base: Settings = {"out": str(folder / "base"), "layout": {}, "model": SHAPE, "settings": {"steps": 1}}
    launch(1, [base, *[run(folder, name, "alone") for name in RUNS]], folder / "1")
    shared = [run(folder, name, layout, 3) for layout, name in UNDER]
    launch(2, shared, folder / "2")
    for one in shared:
        kept = folder / "stopped" / Path(one["out"]).name
        kept.mkdir(parents=True)
        shutil.copy(Path(one["out"]) / "log.jsonl", kept)
    launch(1, [run(folder, name, layout) | {"layout": {}} for layout, name in UNDER], folder / "3")
    return folder


def require_equal(found: Path, expected: Path, steps: int) -> None:
    """Losses, gradient norms and probes of so many steps."""
    there, here = curve(expected), curve(found)
    for name in ("loss", "grad_norm"):
        assert len(here[name]) == steps
        np.testing.assert_allclose(here[name], there[name][:steps], rtol=RELATIVE_TOLERANCE, err_msg=name)
    probes, wanted = read_probes(found / "log.jsonl"), read_probes(expected / "log.jsonl")[:steps]
    assert [probe.keys() for probe in probes] == [probe.keys() for probe in wanted]
    assert len(probes) == steps
    for one, other in zip(probes, wanted, strict=True):
        # Three steps of 0.1 have moved the gates, by gradients that are sums over all tokens.
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=RELATIVE_TOLERANCE, atol=1e-5)


@pytest.mark.parametrize(("layout", "name"), UNDER)
def test_losses_gradients_and_probes_equal_one_process(trained: Path, layout: str, name: str) -> None:
    of_layout = f"{name} {layout}".replace(" ", "_")
    require_equal(trained / "stopped" / of_layout, trained / f"{name}_alone", 3)


@pytest.mark.parametrize(("layout", "name"), UNDER)
def test_one_process_goes_on_from_what_two_saved(trained: Path, layout: str, name: str) -> None:
    require_equal(trained / f"{name} {layout}".replace(" ", "_"), trained / f"{name}_alone", 4)


def test_the_gates_of_all_stages_are_told(trained: Path) -> None:
    last = read_probes(trained / "stopped" / "all_PP2" / "log.jsonl")[-1]
    assert {name for name in last if "gate" in name} == {"gate_layer_2", "gate_layer_3", "gate_layer_4"}
    # Gates start at 0.1 and, warmed up, go some 10 lr = 0.1 a step.
    assert max(abs(value - 0.1) for name, value in last.items() if "gate" in name) > 0.05
