"""Settings of the db stage."""

from __future__ import annotations

from pydantic import PositiveInt

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
