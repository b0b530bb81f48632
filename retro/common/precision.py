"""In which precision a stage computes: the one place that says what `precision: auto` means on this machine.

It looks at /proc/cpuinfo, and imports torch only where there may be a GPU.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from retro.common.optional import package_folder

log = logging.getLogger(__name__)

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
"""What a setting asks for."""
InferencePrecision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16_weights"]
"""What a setting of generation asks for. `float16_weights`: in float32, from weights kept in float16."""
Computed: TypeAlias = Literal["float32", "bfloat16", "float16_weights"]
"""What a stage computes in."""

CPUINFO = Path("/proc/cpuinfo")
SLOWDOWN = 20
"""How many times slower bfloat16 is than float32 on a CPU without such instructions: training steps of the
quickstart's GPT ran at 335 tokens/s against 6,584 on an EPYC that has AVX2 alone."""

# Linux names of the instructions that multiply bfloat16: Intel's tiles, Intel's and AMD's vectors, ARM. On a Zen 5 with
# avx512_bf16 and no tiles, torch's products in bfloat16 were 4 times as fast as in float32.
_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# With this variable oneDNN, which computes torch's bfloat16 products, does without newer instructions.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
_GPU_NODES = ("nvidiactl", "nvidia0", "kfd", "dxg")


@dataclass(frozen=True)
class PrecisionChoice:
    """In which precision a stage computes, and why."""

    precision: Computed
    reason: str
    """One clause, as in "auto, and this CPU has amx_bf16"."""
    cost: str = ""
    """What bfloat16 costs, where the hardware lacks it; empty elsewhere."""

    def tell(self, setting: str) -> None:
        """Say it in the log: one line, and a warning where there is one."""
        log.info("%s: %s (%s)", setting, self.precision, self.reason)
        if self.cost:
            log.warning("%s: %s; auto would be float32", setting, self.cost)

    @property
    def report(self) -> dict[str, str]:
        """As a stage's report.json has it."""
        return {"precision": self.precision, "precision_reason": self.reason}


@dataclass(frozen=True)
class Hardware:
    """What computes here, and whether it multiplies bfloat16."""

    multiplies: bool
    said: str
    """As in "this CPU has amx_bf16"."""
    gpu: bool = False


def choose(wanted: InferencePrecision, *, begun: str | None = None) -> PrecisionChoice:
    """The precision to compute in.

    Args:
        wanted: The setting.
        begun: What the run, or the part of it that others made, was begun in; `auto` stays with it.
    """
    hardware = find_hardware()
    found: Computed
    if wanted != "auto":
        found, reason = wanted, "as set"
    elif begun in get_args(Computed):
        found, reason = cast(Computed, begun), "auto, and it was begun in that"
    else:
        found, reason = "bfloat16" if hardware.multiplies else "float32", f"auto, and {hardware.said}"
    slow = found == "bfloat16" and not hardware.multiplies
    return PrecisionChoice(found, reason, _cost(hardware) if slow else "")


def is_bfloat16(precision: InferencePrecision) -> bool:
    """Whether to compute in bfloat16, once it was chosen.

    Raises:
        ValueError: It was not: it is auto still.
    """
    if precision == "auto":
        raise ValueError("precision is auto still: choose one first")
    return precision == "bfloat16"


def _cost(hardware: Hardware) -> str:
    if hardware.gpu:
        return f"bfloat16 is emulated here and slower than float32, since {hardware.said}"
    return f"training in bfloat16 takes about {SLOWDOWN} times as long as in float32 here, since {hardware.said}"


def find_hardware() -> Hardware:
    """What computes here: a GPU where torch sees one, else the CPU."""
    return _find_gpu() or _find_cpu(CPUINFO, os.environ)


def _find_gpu() -> Hardware | None:
    if not may_have_gpu():
        return None
    try:
        import torch
    except (ImportError, OSError):  # without torch there is no GPU for it either; whoever needs it says what is wrong
        return None
    if not torch.cuda.is_available():
        return None
    has = torch.cuda.is_bf16_supported(including_emulation=False)
    return Hardware(has, f"the {torch.cuda.get_device_name()} {'has' if has else 'has no'} bfloat16", gpu=True)


def may_have_gpu() -> bool:
    """False where no torch of this environment can see a GPU; found without importing it, which takes seconds."""
    if sys.modules.get("torch") is not None:
        return True
    return any(Path("/dev", name).exists() for name in _GPU_NODES) and bool(torch_builds())


@lru_cache(maxsize=1)
def torch_builds() -> dict[str, str]:
    """What the installed torch is built for besides CPUs, as in {"cuda": "12.8"}; read from its version.py."""
    folder = package_folder("torch")
    if folder is None or not (folder / "version.py").is_file():
        return {}
    text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE))


def _find_cpu(cpuinfo: Path, environment: Mapping[str, str]) -> Hardware:
    has = next((flag for flag in _FLAGS if flag in _cpu_flags(cpuinfo)), None)
    if has is None:
        return Hardware(False, f"this CPU has none of {', '.join(_FLAGS)}")
    for name in _LIMITS:
        if environment.get(name, "").upper() in _WITHOUT_BFLOAT16:
            return Hardware(False, f"{name}={environment[name]} keeps torch from using this CPU's {has}")
    return Hardware(True, f"this CPU has {has}")


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
