"""Settings of the neighbors stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError

STAGE = "neighbors"
Split: TypeAlias = Literal["train", "valid", "test"]


class NeighborsConfig(StageConfig):
    """Search the neighbors of every chunk that the model will train on or be measured on."""

    saved: PositiveInt = 10
    """Neighbors stored per chunk; training may use any number up to this (K of arXiv:2112.04426)."""

    searched: PositiveInt = 50
    """Candidates asked of the index before a chunk's own documents are taken out. Chunks that keep fewer than `saved`
    are searched again, twice as deep each time."""

    queries_per_block: PositiveInt = 10_000
    """Chunks in one block, the unit of resuming and of parallel work."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("train", "valid", "test")
    """The splits to search for."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        owner = type(self).__name__
        if self.searched < self.saved:
            raise ConfigError(f"{owner}.searched", self.searched, f"needs to be at least saved = {self.saved}")
        if len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"{owner}.splits", self.splits, "needs each split once")
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the artifact depends on, as plain JSON values."""
        return config_json(self)
