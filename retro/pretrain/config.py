"""Settings of pretraining and of perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from retro.common.config import StageConfig
from retro.common.conventions import AddSpecialTokens
from retro.common.precision import Precision


class PretrainConfig(StageConfig):
    """Which models to pretrain beside the one described under `model`, and what to start from."""

    baselines: tuple[Literal["gpt", "gpt_equal"], ...] = ()
    """Also train, on the same tokens in the same order: `gpt`, the same model without retrieval; `gpt_equal`, a GPT
    with as many parameters as the Retro, in wider feed-forward layers."""
    start_from: Path | None = None
    """What to start from, the optimizer clean (retro-fitting): a GPT or Retro checkpoint, a HuggingFace folder (give
    it as `model.size` too), a megatron-core GPT checkpoint (torch_dist), or a legacy
    Megatron one (InstructRetro's layout; `retro convert` prints its model section)."""


class PerplexityConfig(StageConfig):
    """exp of the mean loss over every token of a split (Borgeaud et al. 2022, section 3)."""

    split: Literal["valid", "test"] = "valid"
    """Which documents to read. Neighbors always come from the training split."""
    neighbors: tuple[Literal["real", "shuffled", "none"], ...] = ("real", "shuffled", "none")
    """What Retro reads: each chunk's own neighbors, those of another chunk, or nothing. Real must beat shuffled, or
    retrieval is not used."""
    samples: PositiveInt | None = None
    """Sequences to read; absent: all."""
    micro_batch: PositiveInt = 8
    """Sequences in one forward pass."""
    precision: Precision = "auto"
    """What the models compute in; the loss of a token is always taken in float32. `auto`: as for training, by the
    hardware."""
    seed: int = 1234
    """Seeds the shuffling of neighbors."""
    add_special_tokens: AddSpecialTokens = False
    """Whether each sequence begins with a begin-of-sequence token in place of the token before it, as
    `generate.add_special_tokens` says. Models of a folder that adds one by itself have lower perplexity with it."""
