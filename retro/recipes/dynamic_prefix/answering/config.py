"""Settings of stored documents and of answers: the sections `store` and `answer` of `recipe.dynamic_prefix`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require

Mode = Literal["prefix", "none", "prompt"]
"""`prefix`: documents as keys and values. `none`: no documents. `prompt`: documents as text before the question."""

StoredKind = Literal["keys_values", "states"]
StoredType = Literal["float16", "bfloat16", "float32"]


class StoreConfig(StageConfig):
    """Documents that are encoded once, for all questions that will be asked."""

    kind: StoredKind = "keys_values"
    """What is kept of each vector of a document. `keys_values`: what the layers read, 2 layers G D numbers, ready for
    use. `states`: the encoder's, E numbers; the projections are applied when a document is loaded."""

    dtype: StoredType = "float16"
    """Type of the numbers."""

    documents: Literal["questions", "passages"] = "questions"
    """Which are encoded: the `ctxs` of the questions that are answered, or all passages of `data.passages`."""

    documents_per_block: int = Field(default=512, ge=1, le=2048)
    """Most documents in one block, the unit of resuming; fewer where the longest would take more than 256 MiB."""

    documents_at_once: PositiveInt = 32
    """Documents that the encoder reads in one pass, those of similar lengths together."""


class AnswerConfig(StageConfig):
    """How questions are answered."""

    modes: tuple[Mode, ...] = Field(default=("prefix", "none", "prompt"), min_length=1)
    """Ways that are compared, on the same questions and documents."""

    reader: Literal["train", "joint"] = "train"
    """The step whose encoder is used: `joint` trains it on, together with the retriever."""

    documents: PositiveInt | None = None
    """Documents of a question, best first; absent: as many as the prefix was trained with (`prefix.documents`)."""

    search: bool = False
    """Search documents for questions that come without any, by the question's text: in the passages of `data.passages`,
    or without a file of them in the run's database."""

    stored: bool = True
    """Whether stored documents are used. Else, and for documents that are not stored, the encoder reads them when they
    are needed."""

    cache_mib: NonNegativeInt = 512
    """Memory for documents that were used last, in MiB of keys and values; 0 keeps none."""

    max_new_tokens: PositiveInt = 32
    """Longest answer."""

    batch_size: PositiveInt = 16
    """Questions answered at once. Also the unit of resuming."""

    @property
    def shaping(self) -> dict[str, Any]:
        """What of it decides answers: how much stays in memory does not."""
        return self.model_dump(mode="json", exclude={"cache_mib"})

    @model_validator(mode="after")
    def _each_once(self) -> AnswerConfig:
        require(self, "modes", len(set(self.modes)) == len(self.modes), "each mode once")
        return self
