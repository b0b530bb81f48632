"""Settings of the db stage, and of which database a run reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require

Unit: TypeAlias = Literal["chunk", "window", "row"]


class DbConfig(StageConfig):
    """Cut tokenized documents into chunks and store where each one is."""

    unit: Unit = "chunk"
    """What one row is. `chunk`: consecutive pieces of `chunk_length` tokens, which Retro pretraining needs. `window`:
    passages of `window` tokens, one every `step` tokens. `row`: a whole document, such as a passage of a table."""

    chunk_length: PositiveInt = 64
    """Tokens per chunk, m in Borgeaud et al. 2022 (arXiv:2112.04426, section 2.1); for `unit: chunk`."""

    window: PositiveInt = 128
    """Tokens of a window; for `unit: row` the most tokens that a document may have. A hundred English words are about
    130 tokens."""

    step: NonNegativeInt = 0
    """Tokens from the beginning of one window to that of the next; 0: `window`, so that no two overlap."""

    documents_per_block: PositiveInt = 100_000
    """Documents in one block, the unit of resuming and of parallel work. Changes no byte of the database."""

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> Self:
        require(self, "step", self.step <= self.window, f"at most window = {self.window}, or tokens are in no window")
        return self

    @classmethod
    def of(cls, shaping: Mapping[str, Any]) -> Self:
        """The settings under which a database was made, from its manifest."""
        names = cls.model_fields.keys() & shaping.keys()
        return cls(**({name: shaping[name] for name in names} | {"window": shaping["chunk_length"]}))

    @property
    def row_length(self) -> int:
        """Tokens of a row, at most."""
        return self.chunk_length if self.unit == "chunk" else self.window

    @property
    def stride(self) -> int:
        """Tokens from the beginning of a row to that of the next one in its document."""
        return self.row_length if self.unit != "window" or not self.step else self.step

    @property
    def shaping(self) -> dict[str, int | str]:
        """The settings that change the database; those of one in chunks are what they were before there were others."""
        length: dict[str, int | str] = {"chunk_length": self.row_length}
        if self.unit == "chunk":
            return length
        return length | {"unit": self.unit} | ({"step": self.stride} if self.unit == "window" else {})


VersionSetting: TypeAlias = NonNegativeInt | Literal["auto", "latest"]


class DatabaseConfig(StageConfig):
    """Which chunk database neighbors and passages come from. The text that is trained on stays the run's own."""

    run_dir: Path | None = None
    """Another run whose database is read, made with the same tokenizer; absent: this run's own."""

    version: VersionSetting = "auto"
    """0 is what the db and index stages wrote, and every `retro db add`, `remove`, `replace` or `compact` makes the
    next one. `latest` is the last. `auto` is 0 for what trains or is measured (neighbors, pretrain, perplexity, sft),
    so that a run can be repeated, and the latest for generate, so that answers follow the database."""
