"""Settings of the db stage, and of which database a run reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import NonNegativeInt, PositiveInt

from retro.common.config import StageConfig


class DbConfig(StageConfig):
    """Cut tokenized documents into chunks and store where each one lies."""

    chunk_length: PositiveInt = 64
    """Tokens per chunk, m in Borgeaud et al. 2022 (arXiv:2112.04426, section 2.1)."""

    documents_per_block: PositiveInt = 100_000
    """Documents in one block, the unit of resuming and of parallel work. Changes no byte of the database."""

    @property
    def shaping(self) -> dict[str, int]:
        """The settings that change the database."""
        return {"chunk_length": self.chunk_length}


VersionSetting: TypeAlias = NonNegativeInt | Literal["auto", "latest"]


class DatabaseConfig(StageConfig):
    """Which chunk database neighbors and passages come from. The text that is trained on stays the run's own."""

    run_dir: Path | None = None
    """Another run whose database is read, made with the same tokenizer; absent: this run's own."""

    version: VersionSetting = "auto"
    """0 is what the db and index stages wrote, and every `retro db add`, `remove`, `replace` or `compact` makes the
    next one. `latest` is the last. `auto` is 0 for what trains or is measured (neighbors, pretrain, perplexity, sft),
    so that a run can be repeated, and the latest for generate, so that answers follow the database."""
