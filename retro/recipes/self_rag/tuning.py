"""Tuning of critic and generator: the sft stage, with the recipe's samples, prompts and tokens."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from retro.common.artifacts import Manifest
from retro.recipes.base import StepRun
from retro.recipes.self_rag.config import TuneConfig
from retro.recipes.self_rag.prompts import KIND, STYLE
from retro.recipes.self_rag.tokens import TOKENS
from retro.run.pipeline import database_dirs, pretrained
from retro.sft import tune as stage
from retro.sft.config import SetConfig, SftConfig, SftDataConfig, SftTrainConfig

log = logging.getLogger(__name__)


def tune(work: StepRun, config: TuneConfig, samples: Path, dev: Path | None, name: str) -> Manifest:
    """Tune a model on samples in segments; its checkpoints come below the step's folder.

    Args:
        work: The step; it needs the corpus.
        config: From what, and how.
        samples: As `sft.data` reads them.
        dev: Held out, for validation; None: nothing is.
        name: What is tuned, for names of folders.

    Raises:
        RetroError: As the sft stage.
    """
    usual = work.config.sft.data
    data = SftDataConfig(
        sets=(SetConfig(name=name, path=samples, dev=dev, kind=KIND),),
        style="plain", prompts=STYLE, contexts_in_prompt=0, encoder=False, packing=config.packing,
        skip_unusable=config.skip_unusable, add_special_tokens=usual.add_special_tokens, seed=usual.seed,
    )  # fmt: skip
    train = _with_epochs(config, samples)
    sft = SftConfig(data=data, train=train, special_tokens=TOKENS, sequence_length=config.sequence_length)
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
