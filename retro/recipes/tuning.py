"""Tuning within a recipe: the sft stage, with samples that an earlier step wrote."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retro.common.artifacts import Manifest
from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.base import Made, StepRun
from retro.sft.config import SetConfig, SftConfig, SftDataConfig, SftTrainConfig

log = logging.getLogger(__name__)


class TuneConfig(StageConfig):
    """How a recipe tunes a model. Questions and prompts are the recipe's own."""

    start_from: Path | None = None
    """A checkpoint to start from; absent: the run's pretrained model."""

    train: SftTrainConfig = SftTrainConfig()
    """Steps, batches, optimizer, LoRA."""

    epochs: PositiveFloat | None = None
    """Times that all samples are seen, in place of `train.steps`."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """With `epochs`: share of the steps in which the learning rate rises, in place of `train.warmup_steps`."""

    sequence_length: PositiveInt | None = None
    """Most tokens of a sample; absent: as the model was trained."""

    packing: bool = False
    """Several samples in a sequence; then `train.steps` says how long, for a sequence is not a sample."""

    skip_unusable: bool = True
    """Leave out, and count, samples that do not fit a sequence."""

    @model_validator(mode="after")
    def _epochs_count_samples(self) -> TuneConfig:
        need = "no packing beside it: a packed sequence holds several samples; give train.steps"
        require(self, "epochs", self.epochs is None or not self.packing, need)
        return self

    def with_epochs(self, samples: int) -> SftTrainConfig:
        """The training settings, with steps for so many times through the samples where epochs are asked for.

        Args:
            samples: How many there are.
        """
        if self.epochs is None:
            return self.train
        steps = max(1, math.ceil(self.epochs * samples / self.train.global_batch))
        warmup = round(self.warmup_share * steps)
        log.info(
            "%g times through %d samples in batches of %d: %d steps",
            self.epochs,
            samples,
            self.train.global_batch,
            steps,
        )
        return self.train.model_copy(update={"steps": steps, "warmup_steps": warmup})


def tune(
    work: StepRun, config: TuneConfig, samples: Path, dev: Path | None, name: str, *, kind: str, **data: Any
) -> Made:
    """Tune a model; its checkpoints come into the folder `sft` of the step.

    Args:
        work: The step; it needs the corpus.
        config: From what, and how.
        samples: As `sft.data` reads them, one a line.
        dev: Held out, for validation; None: nothing is.
        name: What is tuned, for names of folders.
        kind: The kind of question.
        data: More settings of `sft.data`: prompts, style, passages.

    Raises:
        RetroError: As the sft stage.
    """
    from retro.run.pipeline import database_dirs, pretrained
    from retro.sft import tune as stage

    usual = work.config.sft
    sft = SftConfig(
        data=SftDataConfig(
            sets=(SetConfig(name=name, path=samples, dev=dev, kind=kind),), encoder=False, packing=config.packing,
            skip_unusable=config.skip_unusable, add_special_tokens=usual.data.add_special_tokens,
            seed=usual.data.seed, **data,
        ),
        train=config.with_epochs(_lines(samples)), special_tokens=work.recipe.special_tokens,
        sequence_length=config.sequence_length,
    )  # fmt: skip
    start = config.start_from or usual.start_from or pretrained(work.config)
    dirs = (work.made_by("corpus"), *database_dirs(work.config), work.directory / "sft")
    manifest: Manifest = stage.run(sft, work.config.parallel, start, *dirs)
    return Made(files=["sft/manifest.json"], counts={"steps": manifest.counts["result"]["steps"]})


def _lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
