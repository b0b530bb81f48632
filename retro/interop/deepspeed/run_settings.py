"""The training settings of a run, as DeepSpeed and HuggingFace's Trainer count them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retro.common.precision import choose
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.layout import require_batch, require_processes

Stage = Literal["pretrain", "sft"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a stage of a run trains with, on so many processes. It is the one truth that files are compared with."""

    stage: Stage
    train: TrainConfig
    layout: ParallelConfig
    processes: int
    """Processes that the launcher starts, one a GPU."""
    bfloat16: bool
    """Whether the stage computes in bfloat16 on this machine."""

    @classmethod
    def of(cls, stage: Stage, train: TrainConfig, layout: ParallelConfig, processes: int) -> RunSettings:
        """The settings of a stage.

        Raises:
            ConfigError: The processes hold no whole copies of the model, or do not share the batch evenly.
        """
        require_processes(layout, processes)
        ranks = processes // layout.model_ranks
        require_batch(layout, global_batch=train.global_batch, micro_batch=train.micro_batch, ranks=ranks)
        bfloat16 = choose(train.precision).precision == "bfloat16"
        return cls(stage=stage, train=train, layout=layout, processes=processes, bfloat16=bfloat16)

    @property
    def ranks(self) -> int:
        """Data parallel ranks, each with samples of its own; DeepSpeed's world size without model parallelism."""
        return self.processes // self.layout.model_ranks

    @property
    def accumulation(self) -> int:
        """Micro batches of a rank in one optimizer step."""
        return self.train.global_batch // (self.train.micro_batch * self.ranks)

    @property
    def min_lr(self) -> float:
        """Learning rate at the end of the decay; a constant schedule stays at the peak."""
        return self.train.lr if self.train.schedule == "constant" else self.train.min_lr

    def name(self, setting: str) -> str:
        """The full name of a training setting, as it is typed behind a command."""
        return f"sft.train.{setting}" if self.stage == "sft" else f"train.{setting}"
