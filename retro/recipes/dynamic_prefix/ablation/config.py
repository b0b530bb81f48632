"""Settings of the ablation: the section `ablate` of `recipe.dynamic_prefix`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.dynamic_prefix.answering.config import Mode

Kind = Literal["prefix", "cross_attention"]
"""`prefix`: this recipe under other settings. `cross_attention`: Retro's, fitted to the same frozen model."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class VariantConfig(StageConfig):
    """One row of the table: the run under other settings, in a folder of its own."""

    name: str = Field(pattern=NAME)
    """Of the row, and of its folder."""

    group: str = "own"
    """What it varies; rows of a group stand together."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ, by their dotted names as they stand in the run's file."""

    mode: Mode = "prefix"
    """Which of its answers count."""

    kind: Kind = "prefix"
    """What reads the documents."""


class AblateConfig(StageConfig):
    """Which variants are run. What a variant has in common with the run or with one before it is not made again."""

    variants: tuple[VariantConfig, ...] = ()
    """Rows in place of the built-in ones."""

    more: tuple[VariantConfig, ...] = ()
    """Rows beside them."""

    only: tuple[str, ...] = ()
    """Names or groups of the rows that are run; empty: all."""

    lengths: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Vectors of a document, `prefix.compress`. The uncompressed document is a row beside them."""

    heads: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    """Attention heads of a fresh encoder; those that do not divide its width are left out."""

    documents: tuple[PositiveInt, ...] = (1, 2, 4)
    """Documents of a question."""

    static: NonNegativeInt = 16
    """Learned vectors of the row that reads no document; 0: no such row."""

    retrievers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Rows with other retrievers, such as one untuned and one tuned: settings by their dotted names, by the row's name.
    They need `data.retrieve`."""

    cross_attention: bool = True
    """Whether Retro's cross-attention on the same frozen model is a row."""

    @model_validator(mode="after")
    def _names_once(self) -> AblateConfig:
        for field in ("variants", "more"):
            names = [one.name for one in getattr(self, field)]
            require(self, field, len(set(names)) == len(names), "each name once")
        return self
