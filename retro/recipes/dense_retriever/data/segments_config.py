"""Settings of the step `segments`: the section `segments` of the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import require
from retro.corpus.config import SourceConfig

_HOW = ("workers", "block_bytes")


class SegmentsConfig(StageConfig):
    """From documents to overlapping windows of text, which are embedded and found."""

    sources: tuple[SourceConfig, ...] = ()
    """Documents, as the section `corpus` of a run has them; `id_key: _id` for the corpus.jsonl of BEIR. Empty: the
    sources of the run's own corpus."""

    window: PositiveInt = 288
    """Tokens of a segment."""

    step: PositiveInt = 64
    """Tokens from the start of a segment to the start of the next one, at most `window`; equal to it: no overlap."""

    last: Literal["whole", "rest"] = "whole"
    """The last segment of a document ends where the document ends. `whole`: it begins so early that it is as long as
    the others. `rest`: it begins `step` after the one before it, and is shorter."""

    tokenizer: Path | None = None
    """A tokenizer.json of the HuggingFace tokenizers library. None: tokens are words between white space."""

    block_bytes: PositiveInt = 4 << 20
    """Bytes of input in one block, the unit of resuming and of parallel work; its segments are in memory at once.
    Changes no byte."""

    workers: PositiveInt = 1
    """Processes that make blocks. Changes no byte."""

    @model_validator(mode="after")
    def _covers_documents(self) -> Self:
        require(self, "step", self.step <= self.window, f"at most window = {self.window}, or text between is lost")
        names = [one.name for one in self.sources]
        require(self, "sources", len(set(names)) == len(names), "a name of its own for each")
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the segments depend on."""
        return {name: value for name, value in config_json(self).items() if name not in _HOW}
