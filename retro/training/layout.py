"""Whether a model can be spread over processes as asked: decided by arithmetic, before anything is allocated."""

from __future__ import annotations

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.training.config import ParallelConfig

_MOST = 64


def require_layout(shape: ModelShape, layout: ParallelConfig) -> None:
    """Check that a model can be spread as asked.

    Raises:
        ConfigError: Something does not divide; the nearest settings that work are named.
    """
    _require_divisor("parallel.tensor", layout.tensor, _tensor_splits(shape, layout.sequence))
    layers = shape.model.layers
    if layout.stage_layers:
        found = sum(layout.stage_layers)
        if found != layers:
            need = f"needs numbers whose sum is model.layers = {layers}, found {found}"
            raise ConfigError("parallel.stage_layers", list(layout.stage_layers), need)
        return
    _require_divisor("parallel.pipeline", layout.pipeline, {"model.layers": layers})
    of_a_stage = {"the layers of a stage": layers // layout.pipeline}
    _require_divisor("parallel.virtual_pipeline", layout.virtual_pipeline, of_a_stage)


def require_processes(layout: ParallelConfig, processes: int) -> None:
    """Check that the launcher started enough processes for whole copies of the model.

    Raises:
        ConfigError: It did not; the numbers are named.
    """
    near = nearest_processes(layout, processes)
    if near:
        counts = " or ".join(map(str, near))
        raise ConfigError(
            "parallel.tensor" if layout.pipeline == 1 else "parallel.pipeline",
            layout.tensor if layout.pipeline == 1 else layout.pipeline,
            f"needs a multiple of tensor x pipeline = {layout.tensor} x {layout.pipeline} processes, {processes} "
            f"were started. Start {counts} (torchrun --nproc-per-node), or lower it",
        )


def nearest_processes(layout: ParallelConfig, processes: int) -> list[int]:
    """The nearest numbers of processes that make whole copies of the model; none where `processes` do."""
    if processes > 0 and processes % layout.model_ranks == 0:
        return []
    fewer = max(processes, 0) // layout.model_ranks
    return [copies * layout.model_ranks for copies in (fewer, fewer + 1) if copies]


def require_batch(layout: ParallelConfig, *, global_batch: int, micro_batch: int, ranks: int) -> None:
    """Check that a global batch is shared out evenly.

    Args:
        layout: Stages and their turns.
        global_batch: Sequences of an optimizer step.
        micro_batch: Sequences of one pass.
        ranks: Data parallel ranks.

    Raises:
        ConfigError: It is not; the nearest that is gets named.
    """
    turns = layout.pipeline if layout.virtual_pipeline > 1 else 1
    unit = micro_batch * ranks * turns
    if global_batch % unit:
        parts = f"train.micro_batch x data parallel ranks = {micro_batch} x {ranks}"
        if turns > 1:
            parts += f", times parallel.pipeline = {turns} for stages that take turns"
        nearest = max(round(global_batch / unit), 1) * unit
        raise ConfigError("train.global_batch", global_batch, f"needs a multiple of {parts}, {nearest} for example")


def _tensor_splits(shape: ModelShape, sequence: bool) -> dict[str, int]:
    """What tensor parallelism divides, and sequence parallelism too."""
    model = shape.model
    splits = {
        "model.heads": model.heads,
        "model.query_groups": model.query_groups,
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "the padded vocabulary": shape.padded_vocabulary,
    }
    if sequence:
        splits |= {"model.sequence_length": model.sequence_length, "the chunk length": shape.chunk_length}
    return splits


def _require_divisor(setting: str, value: int, splits: dict[str, int]) -> None:
    fitting = [n for n in range(1, _MOST + 1) if all(size % n == 0 for size in splits.values())]
    for name, size in splits.items():
        if size % value:
            nearest = [n for n in fitting if n < value][-2:] + [n for n in fitting if n > value][:2]
            need = f"needs a divisor of {name} = {size}; nearest: {', '.join(map(str, nearest))}"
            if "layers" in name:
                need += ", or parallel.stage_layers"
            raise ConfigError(setting, value, need)
