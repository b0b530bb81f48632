"""The contract between the CPU adapter and megatron-core 0.16: what it maps must still be what megatron-core uses.

When one of these fails after an upgrade, megatron-core has moved something that retro/mcore/cpu.py leans on.
"""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest
import torch

import retro.mcore  # noqa: F401 - applies the adapter
from retro.mcore.cpu import on_cpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the adapter does nothing where CUDA is present")


def source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def test_the_release_is_the_one_the_adapter_was_written_for() -> None:
    assert importlib.metadata.version("megatron-core").startswith("0.16.")


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
        ("megatron.core.dist_checkpointing.strategies.common", "torch.load(load_path, map_location='cpu')"),
    ],
)
def test_megatron_core_still_has_what_the_adapter_maps(module: str, words: str) -> None:
    assert words in source(module)


def test_checkpoints_are_read_with_torchs_safe_default() -> None:
    # strategies/common.py calls torch.load without weights_only, so the default must be True.
    assert "weights_only" not in source("megatron.core.dist_checkpointing.strategies.common")
    assert inspect.signature(torch.load).parameters["weights_only"].default is None
    assert tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 6)
