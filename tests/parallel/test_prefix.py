"""A prefix on layers that ranks share: losses of one process, encoders that stay equal, checkpoints for any layout.

Tolerance as between layouts of whole models: sums are formed in another order, 2e-5 relative in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.training import checkpoint
from tests.model.tiny import tiny_shape
from tests.parallel.launch import curve, launch_module
from tests.parallel.prefix_worker import do_all
from tests.recipes.dynamic_prefix.tiny_prefix import GPT, LLAMA, prefix_config, train_base, write_encoder

pytestmark = pytest.mark.slow

RELATIVE_TOLERANCE = 2e-5

Settings = dict[str, Any]

MODELS: dict[str, Settings] = {"llama": LLAMA, "gpt": GPT, "retro": {"query_groups": 2}}
PREFIXES: dict[str, Settings] = {
    "llama": {"compress": 3, "static": 2},
    "gpt": {},
    "retro": {"projection": "frozen", "gate_init": 0.2},
}
LAYOUTS: dict[str, Settings] = {
    "TP2": {"tensor": 2},
    "TP2 SP": {"tensor": 2, "sequence": True},
    "DP2": {},
    "DP2 distributed optimizer": {"distributed_optimizer": True},
}


def run(folder: Path, model: str, name: str, layout: Settings, **settings: Any) -> Settings:
    """Six steps on the base of a model."""
    return {
        "out": str(folder / f"{model}_{name}".replace(" ", "_")), "base": str(folder / f"{model}_base"),
        "encoder": str(folder / f"{model}_encoder"), "layout": layout, "model": MODELS[model],
        "prefix": PREFIXES[model], "settings": settings,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model's run in one process, and in two under every layout."""
    folder = tmp_path_factory.mktemp("prefix")
    for model, settings in MODELS.items():
        train_base(folder / f"{model}_base", tiny_shape(**settings))
        write_encoder(folder / f"{model}_encoder", prefix_config(**PREFIXES[model]))
    do_all([run(folder, model, "one", {}) for model in MODELS])
    runs = [run(folder, model, name, layout) for model in MODELS for name, layout in LAYOUTS.items()]
    runs.append(run(folder, "llama", "bfloat16", {"tensor": 2}, precision="bfloat16"))
    plan = folder / "runs.json"
    plan.write_text(json.dumps(runs))
    launch_module(2, "tests.parallel.prefix_worker", str(plan))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_losses_are_those_of_one_process(folder: Path, model: str, layout: str) -> None:
    expected, found = (curve(Path(run(folder, model, name, {})["out"])) for name in ("one", layout))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_encoder_stays_equal_on_all_ranks_and_gates_are_shared_out_by_heads(
    folder: Path, model: str, layout: str
) -> None:
    out = Path(run(folder, model, layout, {})["out"])
    first, second = (torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in first["encoder"].items():
        assert torch.equal(weight, second["encoder"][name]), name
    whole = torch.load(Path(run(folder, model, "one", {})["out"]) / "rank0.pt", weights_only=True)["gates"]
    parts = [first["gates"], second["gates"]] if "TP2" in layout else [first["gates"]]
    assert whole.any(dim=1).all()
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_of_two_ranks_holds_what_one_of_one_process_holds(folder: Path, model: str) -> None:
    one, two = (Path(run(folder, model, name, {})["out"]) for name in ("one", "TP2"))
    stored = [checkpoint.open_weights(checkpoint.read_info(checkpoint.find(out))) for out in (one, two)]
    assert stored[0].sizes == stored[1].sizes
    for name, size in stored[0].sizes.items():
        # A bias of keys changes no softmax: its gradient is rounding, which Adam makes as large as any.
        if name.startswith("added_") and not name.endswith(("key.bias", "in_proj_bias")):
            whole = tuple(slice(0, length) for length in size)
            torch.testing.assert_close(
                stored[0].read(name, whole), stored[1].read(name, whole), rtol=1e-3, atol=1e-5, msg=name
            )


def test_gates_of_a_bfloat16_model_are_float32_on_disk(folder: Path) -> None:
    out = Path(run(folder, "llama", "bfloat16", {})["out"])
    stored = checkpoint.open_weights(checkpoint.read_info(checkpoint.find(out)))
    gates = [name for name in stored.sizes if name.endswith("learned_gate") and name.startswith("added_")]
    assert len(gates) == 3
    for name in gates:
        assert stored.sizes[name] == (4,)
        gate = stored.read(name, (slice(0, 4),))
        assert gate.dtype == torch.float32
        assert not torch.equal(gate, gate.bfloat16().float())
