"""Settings of pretraining and of perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.common.precision import Precision
from retro.tokenizers.conventions import AddSpecialTokens


class PretrainConfig(StageConfig):
    """Which models to pretrain beside the one described under `model`, and what to start from."""

    baselines: tuple[Literal["gpt", "gpt_equal"], ...] = ()
    """Also train, on the same tokens in the same order: `gpt`, the same model without retrieval; `gpt_equal`, a GPT
    with as many parameters as the Retro, in wider feed-forward layers."""
    start_from: Path | None = None
    """What to start from, the optimizer clean (retro-fitting): a GPT or Retro checkpoint, a HuggingFace folder (give
    it as `model.size` too), a megatron-core GPT checkpoint (torch_dist), or a legacy
    Megatron one (InstructRetro's layout; `retro convert` prints its model section)."""


Condition = Literal["found", "shuffled", "none", "more_text"]
CONDITIONS: tuple[Condition, ...] = ("found", "shuffled", "none", "more_text")


class InContextConfig(StageConfig):
    """Perplexity with passages before the text, in the prompt: In-Context RALM (Ram et al. 2023, arXiv:2302.00083).

    It needs no encoder, so every model has it. All conditions score the same tokens.
    """

    conditions: tuple[Condition, ...] = Field(default=CONDITIONS, min_length=1)
    """What is before the text: `found`, what the search finds for the tokens before those to be scored;
    `shuffled`, what it found for another document; `none`, nothing, with the same preceding text; `more_text`, no
    passages, and preceding text in their room: what they cost (the baseline of Ram et al.)."""
    passages: PositiveInt = 1
    """Passages in a prompt, each a chunk with its continuation; the best one stands next to the text."""
    stride: PositiveInt | None = None
    """Tokens that are scored after each search (s); absent: a chunk."""
    length: PositiveInt | None = None
    """Tokens of a prompt and what is scored after it, at most the model's sequence length; absent: that."""
    prefix: PositiveInt | None = None
    """Tokens of preceding text that stay in the prompt, at most; absent: all that there is room for."""
    query_length: PositiveInt | None = None
    """Preceding tokens that are searched with (l); absent: a chunk."""
    search: Literal["neighbors", "live"] = "neighbors"
    """Where passages come from: the neighbors that `retro neighbors` found for the chunk before (whatever its search
    was, with no further search), or the run's index, searched now; any stride and query needs `live`."""
    text: Literal["stream", "documents"] = "stream"
    """`stream`: documents end to end, as models are trained and as the other perplexities are taken. `documents`:
    preceding text and query end at the beginning of the document, whose first `stride` tokens are not scored."""
    targets: PositiveInt | None = None
    """Searches, spread evenly over the split; absent: all. Each is a pass over a whole prompt, so all of them cost
    length / stride times what perplexity without passages does."""
    separator: str = "\n"
    """Between passages, and between them and the text."""
    bootstrap_samples: PositiveInt = 2_000
    """Resamples of the documents behind each interval."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the resamples that an interval holds."""

    @model_validator(mode="after")
    def _consistent(self) -> InContextConfig:
        require(self, "conditions", len(set(self.conditions)) == len(self.conditions), "each condition once")
        require(self, "text", self.text == "stream" or self.search == "live", "search=live: neighbors are the stream's")
        return self


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
    in_context: InContextConfig | None = None
    """Measure with passages in the prompt too; absent: not. `perplexity.in_context={}` takes every default."""
