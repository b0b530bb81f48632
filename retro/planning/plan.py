"""One plan: a model, its training settings, a layout, so many GPUs of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.model.count import plain_gpt
from retro.planning.activations import Activations
from retro.planning.flops import Flops, block_flops, count_flops, recomputed_flops
from retro.planning.gpus import Gpu
from retro.planning.memory import StageMemory, stage_memory
from retro.planning.stages import Block, bubble, stages_of
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.layout import nearest_processes, require_batch, require_layout

UTILIZATION = 0.4
"""Share of a GPU's peak that its matrix products reach on average while it works, unless another is stated."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs. Make it with `make_plan`, which refuses what cannot work."""

    shape: ModelShape
    train: TrainConfig
    layout: ParallelConfig
    gpus: int
    gpu: Gpu | None = None
    """None counts memory without a limit, and no time."""
    utilization: float = UTILIZATION

    @property
    def data(self) -> int:
        """Data parallel ranks: copies of the model."""
        return self.gpus // self.layout.model_ranks

    @property
    def micro_batches(self) -> int:
        """Micro batches of an optimizer step on one rank."""
        return self.train.global_batch // (self.train.micro_batch * self.data)

    @cached_property
    def flops(self) -> Flops:
        """Forward FLOPs of a token."""
        return count_flops(self.shape)

    @cached_property
    def stages(self) -> list[StageMemory]:
        """Memory of each pipeline stage."""
        return stage_memory(self.shape, self.train, self.layout, data=self.data, micro_batches=self.micro_batches)

    @property
    def fullest(self) -> int:
        """The stage, counted from 0, that needs the most memory."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].total)

    @property
    def memory(self) -> float:
        """Bytes on a GPU of that stage."""
        return self.stages[self.fullest].total

    @property
    def fits(self) -> bool:
        """Whether every stage leaves the reserve free."""
        return self.gpu is None or self.memory <= self.gpu.usable

    @property
    def bubble(self) -> float:
        """Waiting time of the pipeline as a share of working time."""
        return bubble(self.layout.pipeline, self.layout.virtual_pipeline, self.micro_batches)

    @cached_property
    def stage_flops(self) -> list[float]:
        """FLOPs of a token on each stage: forward, backward and what is recomputed in between."""
        stages = stages_of(self.shape, self.layout)
        return [sum(map(self._block_flops, blocks)) for blocks in stages]

    @property
    def imbalance(self) -> float:
        """The slowest stage's FLOPs over the mean: 1 when all have equally much to do."""
        return max(self.stage_flops) * len(self.stage_flops) / sum(self.stage_flops)

    @property
    def transport_bytes(self) -> float:
        """Bytes that a rank hands to the next stage for one micro batch; the gradient comes back in as many."""
        if self.layout.pipeline == 1:
            return 0.0
        return Activations(self.shape, self.train).transport().on_rank(self.layout)

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimizer step: every micro batch waits for the slowest stage, and the pipeline fills."""
        gpu = self._need_gpu()
        tokens = self.train.micro_batch * self.shape.model.sequence_length
        slowest = max(self.stage_flops) * tokens / self.layout.tensor
        return self.micro_batches * (1 + self.bubble) * slowest / (gpu.peak * self.utilization)

    @property
    def tokens_per_second(self) -> float:
        """Over all GPUs."""
        return self.train.global_batch * self.shape.model.sequence_length / self.step_seconds

    @property
    def model_utilization(self) -> float:
        """Share of the peak that goes into the model's own FLOPs: after recomputation, bubble and imbalance."""
        return self.tokens_per_second * self.flops.training / (self.gpus * self._need_gpu().peak)

    def gpu_hours(self, tokens: float) -> float:
        """GPU-hours of so many tokens."""
        return tokens / self.tokens_per_second * self.gpus / 3600

    def without_retrieval(self) -> Plan:
        """The same run of the same decoder as a GPT."""
        return Plan(
            shape=plain_gpt(self.shape), train=self.train, layout=self.layout, gpus=self.gpus, gpu=self.gpu,
            utilization=self.utilization,
        )  # fmt: skip

    def _block_flops(self, block: Block) -> float:
        again = recomputed_flops(self.shape, block, self.train.recompute)
        return block_flops(self.shape, block).training + again

    def _need_gpu(self) -> Gpu:
        if self.gpu is None:
            raise ValueError("time needs a GPU")
        return self.gpu


def require_utilization(utilization: float) -> None:
    """Check that it is a share.

    Raises:
        ConfigError: It is not.
    """
    if not 0 < utilization <= 1:
        raise ConfigError("--utilization", utilization, "needs a share above 0 and up to 1, as 0.4")


def make_plan(
    shape: ModelShape,
    train: TrainConfig,
    layout: ParallelConfig,
    *,
    gpus: int,
    gpu: Gpu | None = None,
    utilization: float = UTILIZATION,
) -> Plan:
    """Check that a run can be laid out so, and plan it; `train.precision: auto` is planned as GPUs have it, bfloat16.

    Raises:
        ConfigError: The layout does not fit the model, the GPUs or the batch.
    """
    if train.precision == "auto":
        train = train.model_copy(update={"precision": "bfloat16"})
    require_layout(shape, layout)
    require_utilization(utilization)
    near = nearest_processes(layout, gpus)
    if near:
        need = (
            f"needs a multiple of tensor x pipeline = {layout.tensor} x {layout.pipeline}; "
            f"nearest: {' or '.join(map(str, near))}"
        )
        raise ConfigError("--gpus", gpus, need)
    plan = Plan(shape=shape, train=train, layout=layout, gpus=gpus, gpu=gpu, utilization=utilization)
    require_batch(layout, global_batch=train.global_batch, micro_batch=train.micro_batch, ranks=plan.data)
    return plan
