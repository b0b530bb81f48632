"""Settings of the leakage measurement."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import ConfigError

STAGE = "leakage"


class LeakageConfig(StageConfig):
    """How much of the held-out text is in the training text, and what perplexity is without it
    (arXiv:2112.04426, section 2.6). The split is that of `perplexity.split`."""

    alphas: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = tuple(
        eighth / 8 for eighth in range(1, 9)
    )
    """Shares of a chunk, ascending, the last one 1: perplexity is taken over the chunks of which at most this share
    is in the training text in one piece (alpha of the paper)."""

    chunks_per_block: PositiveInt = 16_384
    """Held-out chunks that are looked for at a time, in about 2 kB of memory each (64 tokens, real text). The training
    text is read once for each such block."""

    tokens_per_block: PositiveInt = 20_000_000
    """Tokens of training text in one block, the unit of resuming and of parallel work."""

    @model_validator(mode="after")
    def _alphas_ascend_to_one(self) -> Self:
        owner = f"{type(self).__name__}.alphas"
        if list(self.alphas) != sorted(set(self.alphas)) or self.alphas[-1] != 1:
            raise ConfigError(owner, self.alphas, "needs to ascend, and to end with 1: all chunks")
        return self

    def shaping(self, split: str) -> dict[str, Any]:
        """The settings that the overlaps depend on: neither alphas, which are applied afterwards, nor blocks."""
        return {"split": split}
