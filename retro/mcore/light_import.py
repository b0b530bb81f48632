"""Importing megatron-core without what it imports and nobody here uses: half of the time that a start takes.

Its timers look for wandb and TensorBoard. Its fused functions call `torch.compile` while they are defined, which
imports the compiler; without CUDA nothing here calls them, so there they stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_UNUSED = ("wandb", "tensorboard")


def import_megatron(*, compiled: bool) -> None:
    """Import megatron-core.

    Args:
        compiled: Whether its fused functions are compiled.
    """
    with _hidden(), _compiling(compiled):
        from megatron.core import jit
    if not compiled:
        jit.disable_jit_fuser()  # for what of megatron-core is imported later


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
