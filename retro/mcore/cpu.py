"""The adapter that lets megatron-core's own code run where there is no CUDA.

megatron-core names CUDA directly: it asks for the current CUDA device, allocates on "cuda", keeps CUDA random
states and compares tensor types with "torch.cuda.FloatTensor". On a machine without CUDA, and only there, each
of these is mapped to the CPU, so the layers, schedules, optimizer and checkpoints that CI runs are the ones that
run on a GPU. Applied once, before megatron is imported. `tests/mcore/test_cpu_adapter.py` holds the contract with
megatron-core and fails when a release moves what this leans on.

Its timers look for wandb and TensorBoard. Its fused functions call `torch.compile` while they are defined, which
imports the compiler; without CUDA nothing here calls them, so there they stay as they are.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.utils import _device

from retro.common.megatron_release import require_release

_UNUSED = ("wandb", "tensorboard")
# What 0.19 says each time a model is built, of GPTModel and of the way its layers are specified. Both are as they must
# be: its successor has no cross-attention (docs/results/megatron_versions.md).
_SAID = {
    "megatron.core.models.gpt.gpt_model": "GPTModel IS DEPRECATED",
    "megatron.core.transformer.transformer_layer": "Rewrapping ModuleSpec",
}
_KERNELS = "megatron.core.transformer.moe.ops.paged_stash"


def import_megatron(*, compiled: bool) -> None:
    """Import megatron-core.

    Args:
        compiled: Whether its fused functions are compiled.
    """
    require_release()
    if not compiled and importlib.util.find_spec("triton") is None:
        _without_triton()
    with _hidden(), _compiling(compiled):
        from megatron.core import jit
    if not compiled:
        jit.disable_jit_fuser()  # for what of megatron-core is imported later


def _without_triton() -> None:
    """Put an empty module where 0.18 and later define kernels of Triton, which a torch for CPUs does not bring."""
    kernels = ModuleType(_KERNELS)
    kernels.__getattr__ = _no_kernel  # type: ignore[method-assign]
    sys.modules.setdefault(_KERNELS, kernels)


def _no_kernel(name: str) -> None:
    # Dunder names are the import system's questions. The others are kernels, and nothing here calls any.
    if name.startswith("__"):
        raise AttributeError(name)


@contextmanager
def _hidden() -> Iterator[None]:
    """Packages that are not there, unless somebody has imported them before."""
    hidden = [name for name in _UNUSED if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


@contextmanager
def _compiling(wanted: bool) -> Iterator[None]:
    compile_ = torch.compile
    if not wanted:
        torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


def _as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    return (lambda given: given) if function is None else function


_FACTORIES = ("tensor", "zeros", "empty", "ones", "full", "arange", "rand", "randn")
_applied = False


def on_cpu() -> bool:
    """Whether this process computes on the CPU because CUDA is absent."""
    return not torch.cuda.is_available()


def device() -> torch.device:
    """The device that this process computes on."""
    return torch.device("cpu") if on_cpu() else torch.device("cuda", torch.cuda.current_device())


def apply_cpu_adapter() -> None:
    """Map CUDA to the CPU for megatron-core. Does nothing where CUDA is present, or the second time."""
    global _applied
    # megatron-core warns of each optional package it does not find; `retro doctor` says it once, in one place.
    warnings.filterwarnings("ignore", module=r"megatron\..*")
    warnings.filterwarnings("ignore", message=r".*(Apex|apex|Transformer Engine|transformer_engine|te_|TE ).*")
    for name, words in _SAID.items():
        logging.getLogger(name).addFilter(_Without(words))
    if _applied:
        return
    if not on_cpu():
        import_megatron(compiled=True)
        return
    _applied = True
    # Without this, importing megatron-core on a machine without CUDA starts Triton's driver look-up.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    _map_devices()
    import_megatron(compiled=False)
    _map_random_states()
    _map_type_names()


@dataclass(frozen=True)
class _Without:
    """Keeps lines with some words out of a log; equal ones are added to a logger once."""

    words: str

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is let through."""
        return self.words not in record.getMessage()


def _map_devices() -> None:
    cpu = torch.device("cpu")
    # Fills torch's own list of its factories while it still finds the originals there: `with torch.device(...)`,
    # in which transformers builds its models, goes by that list.
    _device._device_constructors()
    torch.cuda.current_device = lambda: cpu  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.current_stream = lambda device=None: _NoStream()  # type: ignore[assignment,return-value]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu_instead(getattr(torch, name)))


class _NoStream:
    """What 0.19 waits with for gradients that CUDA graphs give; on a CPU there are none."""

    def wait_event(self, event: object) -> None:
        """Nothing runs beside."""

    def wait_stream(self, stream: object) -> None:
        """Nothing runs beside."""


def _on_cpu_instead(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "cuda":
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return make


def _map_random_states() -> None:
    torch.cuda.manual_seed = torch.manual_seed  # type: ignore[assignment]
    torch.cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    torch.cuda.set_rng_state = lambda new_state, device="cuda": torch.set_rng_state(new_state)
    from megatron.core.tensor_parallel import random as megatron_random

    # It watches that nothing draws from the CPU's generator in place of CUDA's; here they are one.
    logging.getLogger(megatron_random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.msg)
    megatron_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda new_state, *args, **kwargs: torch.set_rng_state(new_state)


def _map_type_names() -> None:
    # The optimizers and gradient clipping sort tensors by names such as "torch.cuda.FloatTensor".
    original = torch.Tensor.type

    @functools.wraps(original)
    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if isinstance(result, str) and not result.startswith("torch.cuda."):
            return result.replace("torch.", "torch.cuda.", 1)
        return result

    torch.Tensor.type = type_name  # type: ignore[method-assign,assignment]
