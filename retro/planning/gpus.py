"""GPUs: dense bfloat16 peak and memory, from the vendor's datasheets."""

from __future__ import annotations

from dataclasses import dataclass

from retro.common.config import unknown_name
from retro.common.errors import ConfigError

# What a plan leaves free: the CUDA context, communication buffers, fragmentation, and the temporaries of one operation.
RESERVE = 0.1


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    name: str
    peak: float
    """bfloat16 tensor core FLOP/s without sparsity, to which the datasheets of later GPUs print the double."""
    memory: float
    """Bytes, a datasheet GB taken as 10^9."""
    source: str
    """Which datasheet."""

    @property
    def usable(self) -> float:
        """Bytes that a plan may fill."""
        return self.memory * (1 - RESERVE)


def _row(name: str, tera: float, gigabytes: float, source: str) -> tuple[str, Gpu]:
    return name, Gpu(name, tera * 1e12, gigabytes * 1e9, f"NVIDIA {source} datasheet")


GPUS: dict[str, Gpu] = dict(
    (
        _row("a100-40g", 312, 40, "A100"),
        _row("a100-80g", 312, 80, "A100"),
        _row("h100-pcie-80g", 756, 80, "H100 (PCIe)"),
        _row("h100-80g", 989, 80, "H100 (SXM)"),
        _row("h200-141g", 989, 141, "H200 (SXM)"),
        _row("b200-180g", 2250, 180, "HGX B200"),
    )
)


def find_gpu(name: str) -> Gpu:
    """The row of a GPU.

    Raises:
        ConfigError: There is none of that name; the nearest is named.
    """
    if name.lower() not in GPUS:
        raise ConfigError("--gpu", name, unknown_name(name.lower(), list(GPUS)).replace("setting", "GPU of the table"))
    return GPUS[name.lower()]
