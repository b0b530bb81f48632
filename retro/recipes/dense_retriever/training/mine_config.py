"""Settings of the step `mine`: hard negatives from our own searches; and of `reader_scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require

Source = Literal["bm25", "dense"]


class MineConfig(StageConfig):
    """Hard negatives: passages that are found for a question and do not answer it."""

    sources: tuple[Source, ...] = Field(default=("bm25", "dense"), min_length=1)
    """What searches; negatives are taken from each in turn, best first."""

    count: PositiveInt = 8
    """Negatives of a question, at most."""

    first_rank: PositiveInt = 1
    """Passages before this rank, from 1, are left alone: the best ones are often answers that nobody marked."""

    depth: PositiveInt = 100
    """Last rank that is looked at."""

    without_answer: bool = True
    """Leave out passages whose text holds one of the pair's answers, as DPR's has_answer looks for it."""

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Leave out passages that share at least this part of their word trigrams with the positive, of the shorter
    text's. 1: only those that hold it whole."""

    margin: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out passages that score above this share of the positive's score, in a source whose scores are positive
    (NV-Retriever, arXiv:2407.15831: .95); absent: none."""

    keep_given: bool = True
    """Keep the negatives that pairs have of their own, before the mined ones."""

    embeddings_per_block: PositiveInt = 10_000
    """Passages embedded between two writes to disk."""

    questions_per_block: PositiveInt = 256
    """Questions searched together."""

    @model_validator(mode="after")
    def _ranks_in_order(self) -> Self:
        require(self, "depth", self.depth >= self.first_rank, f"at least first_rank = {self.first_rank}")
        require(self, "sources", len(set(self.sources)) == len(self.sources), "each source once")
        return self


class ReaderScoresConfig(StageConfig):
    """How likely a reader finds the answer, given each passage: what distillation learns from."""

    checkpoint: Path | None = None
    """The reader: a checkpoint of ours; absent: the run's pretrained model."""

    passages: PositiveInt = 8
    """Passages of a question: its positive and the first of its negatives."""

    read_by: Literal["prompt", "encoder"] = "prompt"
    """Where the reader has a passage: in its prompt, or, for Retro models, in their encoder."""

    prompt: str = ""
    """What the reader reads before the answer, with the fields {title}, {text} and {question}. Empty: passage, question
    and `Answer:`, the passage only where it is read by the prompt. A passage that does not fit is cut at its end."""

    per_token: bool = False
    """Scores are means over the answer's tokens, in place of sums."""

    batch_size: PositiveInt = 16
    """Prompts read at a time."""

    limit: NonNegativeInt = 0
    """Only the first so many pairs; 0: all."""

    @model_validator(mode="after")
    def _fields_are_there(self) -> Self:
        needed = ("text", "question") if self.read_by == "prompt" else ("question",)
        have = not self.prompt or all("{" + name + "}" in self.prompt for name in needed)
        require(self, "prompt", have, " and ".join("{" + name + "}" for name in needed))
        known = {"title": "", "text": "", "question": ""}
        try:
            self.template.format_map(known)
        except (KeyError, ValueError, IndexError):
            require(self, "prompt", False, "no fields but {title}, {text} and {question}")
        require(self, "passages", self.passages > 1, "at least 2: of one passage nothing is learned")
        return self

    @property
    def template(self) -> str:
        """The prompt, or the usual one."""
        usual = "Question: {question}\nAnswer:"
        return self.prompt or (f"{{title}}\n{{text}}\n\n{usual}" if self.read_by == "prompt" else usual)
