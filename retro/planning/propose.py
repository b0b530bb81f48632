"""Choose a layout: the fewest GPUs for one copy of the model that hold it."""

from __future__ import annotations

from collections.abc import Iterator

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.planning.gpus import GPUS, Gpu
from retro.planning.memory import GIB
from retro.planning.plan import UTILIZATION, Plan, make_plan, require_utilization
from retro.training.config import ParallelConfig, TrainConfig

# Tensor parallel ranks talk in every layer, so they stay within a node of 8.
_TENSOR = (1, 2, 4, 8)
# 2^10 GPUs is where a search for enough of them ends.
_MOST = 10
_MODES = ("none", "selective", "full")


def propose(
    shape: ModelShape,
    train: TrainConfig,
    *,
    gpus: int,
    gpu: Gpu,
    utilization: float = UTILIZATION,
    modes: tuple[str, ...] = _MODES,
) -> list[Plan]:
    """For each way to recompute, the layout with the smallest tensor x pipeline that fits; quickest first.

    Of equal products the one with fewer stages is taken. What is left of the GPUs is data parallel, over which the
    optimizer is shared out; tensor parallel ranks share the sequence too.

    Raises:
        ConfigError: No layout fits; what would is named.
    """
    require_utilization(utilization)
    if gpus < 1:
        raise ConfigError("--gpus", gpus, "needs a positive number of GPUs")
    found = []
    for mode in modes:
        changed = train.model_copy(update={"recompute": mode})
        plans = candidates(shape, changed, gpus=gpus, gpu=gpu, utilization=utilization)
        fitting = next((plan for plan in plans if plan.fits), None)
        if fitting is not None:
            found.append(fitting)
    if not found:
        raise ConfigError("--gpus", gpus, _what_would_fit(shape, train, gpus, gpu, modes))
    return sorted(found, key=lambda plan: plan.step_seconds)


def fewest_gpus(shape: ModelShape, train: TrainConfig, *, gpu: Gpu, modes: tuple[str, ...] = _MODES) -> int:
    """The smallest power of two of GPUs on which a layout fits.

    Raises:
        ConfigError: 1,024 are not enough.
    """
    for power in range(_MOST + 1):
        count = 1 << power
        try:
            propose(shape, train, gpus=count, gpu=gpu, modes=modes)
        except ConfigError:
            continue
        return count
    need = f"needs a smaller model or micro batch: {2**_MOST:,} x {gpu.name} do not hold one copy"
    raise ConfigError("--gpu", gpu.name, need)


def candidates(
    shape: ModelShape, train: TrainConfig, *, gpus: int, gpu: Gpu, utilization: float = UTILIZATION
) -> Iterator[Plan]:
    """Every layout that the model, the GPUs and the batch allow, smallest first."""
    sizes = [(tensor, stages) for tensor in _TENSOR for stages in range(1, shape.model.layers + 1)]
    for tensor, stages in sorted(sizes, key=lambda size: (size[0] * size[1], size[1])):
        layout = ParallelConfig(
            tensor=tensor, sequence=tensor > 1, pipeline=stages, distributed_optimizer=gpus > tensor * stages
        )
        try:
            yield make_plan(shape, train, layout, gpus=gpus, gpu=gpu, utilization=utilization)
        except ConfigError:  # of this layout: the model, the GPUs or the batch do not divide
            continue


def _what_would_fit(shape: ModelShape, train: TrainConfig, gpus: int, gpu: Gpu, modes: tuple[str, ...]) -> str:
    smallest = train.model_copy(update={"recompute": modes[-1]})
    tried = list(candidates(shape, smallest, gpus=gpus, gpu=gpu))
    if not tried:
        return (
            f"needs a number of GPUs that the model's {shape.model.layers} layers, its heads and train.global_batch = "
            f"{train.global_batch} can share; 8 for example"
        )
    best = min(tried, key=lambda plan: plan.memory)
    said = (
        f"needs more memory: the leanest layout, tensor {best.layout.tensor} x pipeline {best.layout.pipeline} with "
        f"recompute {modes[-1]}, takes {best.memory / GIB:.1f} GiB of the {gpu.usable / GIB:.1f} to fill on one "
        f"{gpu.name}"
    )
    return f"{said}. {_remedies(shape, smallest, gpus, gpu)}"


def _remedies(shape: ModelShape, train: TrainConfig, gpus: int, gpu: Gpu) -> str:
    ways = []
    more = (gpus * 2**power for power in range(1, _MOST + 1))
    enough = next((n for n in more if any(p.fits for p in candidates(shape, train, gpus=n, gpu=gpu))), None)
    if enough:
        ways.append(f"{enough} GPUs")
    larger = sorted((other for other in GPUS.values() if other.memory > gpu.memory), key=lambda other: other.memory)
    for other in larger:
        if any(plan.fits for plan in candidates(shape, train, gpus=gpus, gpu=other)):
            ways.append(f"{gpus} x {other.name}")
            break
    single = train.model_copy(update={"micro_batch": 1})
    if train.micro_batch > 1 and any(plan.fits for plan in candidates(shape, single, gpus=gpus, gpu=gpu)):
        ways.append("train.micro_batch=1")
    return f"What would fit: {' or '.join(ways)}" if ways else "Nothing in the table fits: take a smaller model"
