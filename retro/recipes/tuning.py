"""Tuning of a recipe's models: the sft stage, with the recipe's samples, prompts and tokens."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retro.common.artifacts import Manifest
from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.base import StepRun
from retro.run.pipeline import database_dirs, pretrained
from retro.sft.config import SetConfig, SftConfig, SftDataConfig, SftTrainConfig

log = logging.getLogger(__name__)


class TuneConfig(StageConfig):
    """How a model is tuned. Questions and prompts are the recipe's own."""

    start_from: Path | None = None
    """A checkpoint to start from; absent: the run's pretrained model."""

    train: SftTrainConfig = SftTrainConfig()
    """Steps, batches, optimizer, LoRA. Self-RAG's paper: global batch 128, lr 2e-5, schedule linear, min_lr_fraction
    0."""

    epochs: PositiveFloat | None = None
    """Times that all samples are seen, in place of `train.steps`; 3 in Self-RAG's paper, 2 in QA-Expert."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """With `epochs`: share of the steps in which the learning rate rises, in place of `train.warmup_steps`."""

    sequence_length: PositiveInt | None = None
    """Most tokens of a sample; Self-RAG's paper: 2,048 for 7B, 1,536 for 13B. Absent: as the model was trained."""

    packing: bool = False
    """Several samples in a sequence; then `train.steps` says how long, for a sequence is not a sample."""

    skip_unusable: bool = True
    """Leave out, and count, samples that do not fit a sequence."""

    @model_validator(mode="after")
    def _epochs_count_samples(self) -> TuneConfig:
        need = "no packing beside it: a packed sequence holds several samples; give train.steps"
        require(self, "epochs", self.epochs is None or not self.packing, need)
        return self


def tune(
    work: StepRun, config: TuneConfig, samples: Path, dev: Path | None, name: str, *, kind: str, prompts: Path | None
) -> Manifest:
    """Tune a model on samples in segments; its checkpoints come below the step's folder.

    Args:
        work: The step; it needs the corpus.
        config: From what, and how.
        samples: As `sft.data` reads them.
        dev: Held out, for validation; None: nothing is.
        name: What is tuned, for names of folders.
        kind: How the samples are asked, in the prompt texts.
        prompts: The recipe's own prompt texts; None: those that are shipped.

    Raises:
        RetroError: As the sft stage.
    """
    from retro.sft import tune as stage

    usual = work.config.sft.data
    data = SftDataConfig(
        sets=(SetConfig(name=name, path=samples, dev=dev, kind=kind),),
        style="plain", prompts=prompts, contexts_in_prompt=0, encoder=False, packing=config.packing,
        skip_unusable=config.skip_unusable, add_special_tokens=usual.add_special_tokens, seed=usual.seed,
    )  # fmt: skip
    train = _with_epochs(config, samples)
    tokens = work.recipe.special_tokens
    sft = SftConfig(data=data, train=train, special_tokens=tokens, sequence_length=config.sequence_length)
    start = config.start_from or work.config.sft.start_from or pretrained(work.config)
    dirs = (work.made_by("corpus"), *database_dirs(work.config), work.directory / "sft")
    return stage.run(sft, work.config.parallel, start, *dirs)


def _with_epochs(config: TuneConfig, samples: Path) -> SftTrainConfig:
    """The training settings, with steps for so many times through the samples where epochs are asked for."""
    if config.epochs is None:
        return config.train
    with samples.open("rb") as lines:
        count = sum(1 for _ in lines)
    steps = max(1, math.ceil(config.epochs * count / config.train.global_batch))
    warmup = round(config.warmup_share * steps)
    log.info(
        "%g times through %d samples in batches of %d: %d steps", config.epochs, count, config.train.global_batch, steps
    )
    return config.train.model_copy(update={"steps": steps, "warmup_steps": warmup})
