"""Settings of the step `pairs`: the section `data` of the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from retro.common.config import StageConfig, config_json
from retro.recipes.document_split import SEED, VALID_SHARE

PairFormat = Literal["natural_questions", "contriever", "pairs", "hotpotqa"]


class PairSource(StageConfig):
    """Questions with the passages that answer them."""

    path: Path
    """A file, or a folder of files: JSON lines or a JSON list; may end in .gz."""

    format: PairFormat = "pairs"
    """`natural_questions`: the original release, full or simplified, or the layout of HuggingFace's datasets; the
    positive is the annotated long answer. `contriever`: question, positive_ctxs, negative_ctxs, hard_negative_ctxs, as
    DPR and Contriever have them. `pairs`: a question (or query, anchor), a positive or several, negatives or none.
    `hotpotqa`: each supporting paragraph is a positive, the distractors are negatives."""


class DataConfig(StageConfig):
    """From files of questions to pairs, split by document."""

    sources: tuple[PairSource, ...] = ()
    """The files."""

    max_length: PositiveInt = 512
    """Longest passage; what is beyond is cut off, and counted. In words, or in tokens of `tokenizer`."""

    tokenizer: Path | None = None
    """A tokenizer.json that counts the length. None: words between white space."""

    positives: Literal["all", "first"] = "all"
    """Of a question with several positives: a pair for each, or for the first in the file. The others are never
    negatives of it: with `first` the pair keeps them in `other_positives`."""

    negatives: NonNegativeInt = 16
    """Most negatives of a pair: the hard ones of the file first."""

    valid: float = Field(default=VALID_SHARE, gt=0, lt=1)
    """Share of the documents that is held out."""

    seed: NonNegativeInt = SEED
    """Of the split by document, which readers share."""

    skip_bad: bool = False
    """Count items that cannot be read, and go on, in place of stopping at the first. Items without a positive, such as
    questions of Natural Questions without a long answer, are always counted."""

    workers: PositiveInt = 1
    """Processes that read files, one file each at a time. Changes no byte."""

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the pairs depend on."""
        settings = config_json(self)
        del settings["workers"]
        return settings
