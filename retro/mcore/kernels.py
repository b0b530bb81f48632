"""Which layers a model is built of: megatron-core's local ones, or Transformer Engine's."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.extensions import transformer_engine as extension

from retro.common.errors import ConfigError
from retro.mcore.cpu import on_cpu
from retro.mcore.layers import ColumnParallelLinear, FusedAttentionCore, Norm, OutputLinear, RowParallelLinear


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Layer classes that exist in several forms. Weights have the same names and shapes in each."""

    name: str
    """For the log."""
    norm: type
    column_linear: type
    """Outputs shared by the tensor parallel ranks."""
    row_linear: type
    """Inputs shared by the tensor parallel ranks."""
    output_linear: type
    """The same with its bias added: the second of a feed-forward layer."""
    causal_core: type
    """Attention of the decoder's self-attention; all others read under masks and are torch's."""


LOCAL = Kernels(
    name="megatron-core's local layers",
    norm=Norm,
    column_linear=ColumnParallelLinear,
    row_linear=RowParallelLinear,
    output_linear=OutputLinear,
    causal_core=FusedAttentionCore,
)


def choose(layers: str, *, bfloat16: bool) -> Kernels:
    """The layers that a setting means on this machine.

    Args:
        layers: "local", "transformer_engine", or "auto": Transformer Engine's where they can be had.
        bfloat16: Whether the model computes in bfloat16.

    Raises:
        ConfigError: Transformer Engine's are asked for where they cannot be had.
    """
    missing = _missing(bfloat16)
    if layers == "local" or (layers == "auto" and missing is not None):
        return LOCAL
    if missing is not None:
        raise ConfigError("train.layers", layers, f"needs {missing}")
    from retro.mcore.te_layers import CausalCore, ColumnLinear, RowLinear, TENorm, TEOutputLinear

    return Kernels(
        name="Transformer Engine's layers",
        norm=TENorm,
        column_linear=ColumnLinear,
        row_linear=RowLinear,
        output_linear=TEOutputLinear,
        causal_core=CausalCore,
    )


def _missing(bfloat16: bool) -> str | None:
    """What Transformer Engine's layers need and do not have; None where there is nothing."""
    if on_cpu():
        return "a GPU, and torch sees none; auto and local run everywhere"
    if not extension.HAVE_TE:
        return (
            "Transformer Engine, which megatron-core cannot import here: "
            'pip install --no-build-isolation "instruct-retro[te]", or use the NVIDIA image (docs/install.md)'
        )
    if not bfloat16:
        # In float32 its products are TF32, with ten bits of mantissa, and its attention keeps every weight.
        return "train.precision=bfloat16; auto and local compute float32 in full"
    return None
