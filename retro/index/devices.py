"""Where an embedding model runs, and in which number format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from retro.index.config import DType

# Linux names of the instructions that multiply bfloat16: Intel and AMD, Intel's tiles, ARM.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(wanted: DType, cpuinfo: Path = Path("/proc/cpuinfo")) -> Literal["float32", "bfloat16"]:
    """The number format to compute in: `auto` is bfloat16 where the hardware multiplies it."""
    if wanted != "auto":
        return wanted
    if device() == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if _BF16_FLAGS & _cpu_flags(cpuinfo) else "float32"


def _cpu_flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return set(flags.split())
    return set()
