"""Settings of the training loop and of the parallel layout."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require


class TrainConfig(StageConfig):
    """How long, how large and how fast to train. A step is one optimizer step over one global batch."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    micro_batch: PositiveInt = 8
    """Sequences in one forward pass on one rank."""
    global_batch: PositiveInt = 8
    """Sequences in one optimizer step over all ranks; what does not fit one pass is accumulated."""
    lr: PositiveFloat = 6e-4
    """Peak learning rate."""
    min_lr_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of `lr` that is left at the end of the decay; the published schedules end at a tenth."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after the warm-up."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up from zero."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's first moment."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Adam's second moment."""
    epsilon: PositiveFloat = 1e-8
    """Adam's epsilon."""
    clip: NonNegativeFloat = 1.0
    """Clip the gradient's norm to this; 0 does not clip."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 keeps fp32 master weights and gradients."""
    recompute: Literal["none", "full"] = "none"
    """"full" recomputes a layer's activations in the backward pass instead of keeping them."""
    train_only: Literal["all", "retrieval"] = "all"
    """"retrieval" freezes the decoder: cross-attention, its norms and gates, and the encoder alone are trained
    (Borgeaud et al. 2022, section 4.3: retro-fitting). Needs no gradients and optimizer state for the rest."""
    seed: NonNegativeInt = 1234
    """Seeds the weights, dropout and the order of samples."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log."""
    evaluate_every: PositiveInt = 100
    """Steps between two evaluations on the validation split."""
    evaluate_samples: PositiveInt = 64
    """Sequences in such an evaluation, at most; fewer when the split is shorter."""
    save_every: PositiveInt = 200
    """Steps between two checkpoints: what a kill costs at most."""
    keep_last: PositiveInt = 2
    """Checkpoints to keep."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `track`)."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> TrainConfig:
        multiple = self.global_batch % self.micro_batch == 0
        require(self, "global_batch", multiple, f"a multiple of micro_batch = {self.micro_batch}")
        require(self, "warmup_steps", self.warmup_steps < self.steps, f"fewer than steps = {self.steps}")
        return self


class ParallelConfig(StageConfig):
    """How a model is spread over processes. Data parallelism takes whatever the launcher started beyond it."""

    tensor: PositiveInt = 1
    """Processes that share every layer (tensor parallel)."""
    pipeline: PositiveInt = 1
    """Groups of layers on different processes (pipeline parallel)."""
    sequence: bool = False
    """Split activations along the sequence between tensor parallel ranks (sequence parallel)."""

    @model_validator(mode="after")
    def _what_is_built(self) -> ParallelConfig:
        require(self, "pipeline", self.pipeline == 1, "1: Retro's layers do not travel between pipeline stages yet")
        require(self, "sequence", not self.sequence, "false: sequence parallelism is not built yet")
        return self
