"""The contract with megatron-core, of every release that is tested: what retro/mcore leans on is still there.

When one of these fails after an upgrade, megatron-core has moved something; the test says what.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import retro.mcore
from retro.common.errors import DependencyError
from retro.common.megatron_release import TESTED, installed_release
from retro.mcore.cpu import import_megatron, on_cpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the adapter does nothing where CUDA is present")


def source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def test_the_release_is_the_one_the_adapter_was_written_for() -> None:
    assert installed_release() in TESTED


@pytest.mark.parametrize("release", ["0.17.0", "0.18.2"])
def test_a_release_that_is_refused_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr("retro.common.megatron_release.installed_release", lambda: release)
    with pytest.raises(DependencyError, match=rf"megatron-core: release {release} .*Run `pip install"):
        import_megatron(compiled=False)


def imported_names() -> list[tuple[str, str]]:
    """Module and name of everything that the product imports from megatron-core."""
    found = set()
    for path in Path(retro.mcore.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megatron."):
                found |= {(str(node.module), one.name) for one in node.names}
    return sorted(found)


@pytest.mark.parametrize(("module", "name"), imported_names())
def test_every_name_that_is_imported_is_there(module: str, name: str) -> None:
    loaded = importlib.import_module(module)
    assert hasattr(loaded, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"


@pytest.mark.parametrize(
    ("called", "parameters"),
    [
        ("dist_checkpointing.serialization.save", ["sharded_state_dict", "checkpoint_dir", "async_sharded_save"]),
        ("dist_checkpointing.strategies.filesystem_async.FileSystemWriterAsync.write_preloaded_data",
         ["transform_list", "local_proc_idx", "write_bucket", "results_queue", "count_queue", "use_fsync"]),
        ("tensor_parallel.layers.ColumnParallelLinear.forward", ["input_", "weight", "runtime_gather_output"]),
        ("tensor_parallel.layers.RowParallelLinear.forward", ["input_"]),
        ("models.gpt.gpt_model.GPTModel.__init__", ["share_embeddings_and_output_weights", "rotary_base"]),
        ("transformer.transformer_layer.TransformerLayer.__init__", ["config", "submodules", "layer_number"]),
        ("tensor_parallel.random.checkpoint", ["function", "distribute_saved_activations"]),
        ("fusions.fused_bias_dropout.get_bias_dropout_add", ["training", "fused"]),
    ],
)  # fmt: skip
def test_what_is_called_takes_the_same_arguments(called: str, parameters: list[str]) -> None:
    parts = called.split(".")
    split = next(place for place, part in enumerate(parts) if part[0].isupper() or place == len(parts) - 1)
    found: Any = importlib.import_module(".".join(["megatron.core", *parts[:split]]))
    for part in parts[split:]:
        found = getattr(found, part)
    missing = [name for name in parameters if name not in inspect.signature(found).parameters]
    assert missing == [], f"{called} of megatron-core {installed_release()} takes no {missing}"


def test_the_current_device_is_the_cpu() -> None:
    assert on_cpu()
    assert str(torch.cuda.current_device()) == "cpu"


@pytest.mark.parametrize("factory", ["zeros", "empty", "ones", "rand", "randn"])
def test_a_tensor_made_on_cuda_lies_on_the_cpu(factory: str) -> None:
    assert getattr(torch, factory)(3, device="cuda").device.type == "cpu"
    assert getattr(torch, factory)(3, device="meta").device.type == "meta"


def test_tensors_move_to_cuda_by_staying_where_they_are() -> None:
    tensor = torch.ones(2)
    assert tensor.cuda() is tensor


@pytest.mark.parametrize("factory", ["tensor", "full", "arange"])
def test_other_factories_know_cuda_too(factory: str) -> None:
    arguments = {"tensor": ([1.0],), "full": ((2,), 1.0), "arange": (3,)}[factory]
    assert getattr(torch, factory)(*arguments, device="cuda").device.type == "cpu"


def test_tensor_types_have_the_names_the_optimizer_compares_with() -> None:
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
    assert torch.ones(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
    assert torch.ones(1).type(torch.int64).dtype == torch.int64
    assert "torch.cuda.FloatTensor" in source("megatron.core.optimizer.optimizer")


def test_modules_built_in_a_device_context_still_land_there() -> None:
    # transformers builds models under `with torch.device("meta")`; wrapped factories must not leak out of it.
    with torch.device("meta"):
        assert torch.arange(3).device.type == "meta"


def test_random_states_are_those_of_the_cpu_generator() -> None:
    from megatron.core.tensor_parallel import random as megatron_random

    torch.cuda.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(3))
    assert torch.equal(torch.cuda.get_rng_state(), torch.get_rng_state())
    assert torch.equal(megatron_random._get_cuda_rng_state(), torch.get_rng_state())


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("megatron.core.tensor_parallel.random", "def _get_cuda_rng_state"),
        ("megatron.core.tensor_parallel.random", "def _set_cuda_rng_state"),
        ("megatron.core.pipeline_parallel.schedules", 'device="cuda"'),
        ("megatron.core.transformer.transformer_layer", '"context" in attention_output_with_bias'),
    ],
)
def test_megatron_core_still_has_what_the_adapter_maps(module: str, words: str) -> None:
    assert words in source(module)


def test_checkpoints_are_read_with_torchs_safe_default() -> None:
    # strategies/common.py calls torch.load without weights_only, so the default must be True.
    assert "weights_only" not in source("megatron.core.dist_checkpointing.strategies.common")
    assert inspect.signature(torch.load).parameters["weights_only"].default is None
    assert tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 6)
