"""Settings of the neighbors stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError
from retro.index.config import SearchConfig

STAGE = "neighbors"
Split: TypeAlias = Literal["train", "valid", "test"]


class FilterConfig(StageConfig):
    """What may not be a neighbor. Reasons are tried in this order, and each candidate that goes is counted under the
    first that applies.

    The neighbors of chunk u are read while the model predicts chunk u + 1, so candidates (with their continuations)
    are compared with both. Copies stay unless they are asked away: the paper trains with those of other documents and
    asks afterwards how much they explain (arXiv:2112.04426, section 2.6; here `retro leakage`).
    """

    own_document: bool = True
    """Drop chunks of the documents that chunks u and u + 1 are in. Without it the model is handed the very text it is
    to predict, and its loss says nothing; switch it off only to measure that."""

    exact_duplicates: bool = False
    """Drop chunks with the same tokens as chunk u or u + 1."""

    near_duplicates_above: float = Field(default=1.0, ge=0, le=1)
    """Drop chunks whose shingles are more similar than this to those of chunk u or u + 1 (Jaccard similarity, estimated
    by MinHash to about 0.04). 1 drops none."""

    shingle: PositiveInt = 5
    """Tokens in a shingle."""

    overlap_above: float = Field(default=1.0, ge=0, le=1)
    """Drop neighbors that hold more than this share of chunk u or u + 1 in one piece: the longest common token
    substring, alpha of arXiv:2112.04426, section 2.6. 1 drops none."""

    @property
    def compare_tokens(self) -> bool:
        """Whether any filter looks at tokens."""
        return self.exact_duplicates or self.near_duplicates_above < 1 or self.overlap_above < 1


class NeighborsConfig(SearchConfig):
    """Search the neighbors of every chunk that the model will train on or be measured on."""

    saved: PositiveInt = 10
    """Neighbors stored per chunk; training may use any number up to this (K of arXiv:2112.04426)."""

    searched: PositiveInt = 50
    """Candidates asked of the search before the filters. Chunks that keep fewer than `saved` are searched again, twice
    as deep each time."""

    queries_per_block: PositiveInt = 10_000
    """Chunks in one block, the unit of resuming and of parallel work."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("train", "valid", "test")
    """The splits to search for."""

    filters: FilterConfig = FilterConfig()
    """What may not be a neighbor."""

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
        """The settings that the artifact depends on, as plain JSON values.

        Filters that stand at their defaults are left out, so that neighbors made before there were any stay valid; so
        are settings of the search that change nothing.
        """
        settings = config_json(self)
        settings = {name: settings[name] for name in settings if name not in SearchConfig.model_fields}
        settings |= self.search_settings
        if self.filters == FilterConfig():
            del settings["filters"]
        return settings
