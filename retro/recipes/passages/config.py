"""Settings of passages: where they are, what embeds them, how they are searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from retro.common.config import StageConfig
from retro.common.errors import ConfigError
from retro.index.config import EF_SEARCH, NPROBE, EmbedderConfig

MAPPED = "mapped"
"""In place of a Faiss factory string: no index, vectors are compared where they are on disk."""


class PassagesConfig(StageConfig):
    """Passages, their embeddings, and how they are searched."""

    passages: Path | None = None
    """A table as DPR's psgs_w100.tsv (a first line with `id`, `text` and `title`), or JSON lines with `id`, `text`, and
    where there are any `title` and `section`; either may end in .gz."""

    embeddings: str = ""
    """The shards of embeddings: a glob pattern as `wikipedia_embeddings/*`, or their folder. Their names end in a
    number, as passages_00 does."""

    store: Path | None = None
    """Folder of what is derived once: a table of where each passage is, the vectors in one mapped file, the index.
    None: `.retro` beside the shards."""

    embedder: EmbedderConfig = EmbedderConfig()
    """What embeds questions, and passages; `contriever` gives the settings of a Contriever."""

    lowercase: bool = False
    """Embed passages and questions in small letters. As the shards were made, where others made them."""

    title: bool = True
    """Embed the title, a blank and the text of a passage; false: the text alone."""

    dtype: Literal["float16", "float32"] = "float16"
    """What embedded passages are stored in: 2 or 4 bytes per value. Shards of others keep what they have."""

    faiss: str = "Flat"
    """A Faiss factory string; `Flat` compares every vector and holds 4 bytes per value in memory. `mapped` finds the
    same without an index: vectors are read from disk for every batch of questions."""

    nprobe: PositiveInt = NPROBE
    """Inverted lists searched per question, for IVF strings."""

    ef_search: PositiveInt = EF_SEARCH
    """Candidates kept while an HNSW graph is searched."""

    train_sample: PositiveInt = 1_000_000
    """At most this many vectors, drawn uniformly, train an index that has to be trained."""

    seed: NonNegativeInt = 1234
    """Draws that sample."""

    save_or_load_index: bool = True
    """Keep the Faiss index in the store, and take it from there while passages, vectors and settings are the same.
    False: it is made in memory each time."""

    n_docs: PositiveInt = 20
    """Passages for each question."""

    passages_per_block: PositiveInt = 10_000
    """Passages embedded between two writes to disk; a killed process loses at most one block."""

    questions_per_block: PositiveInt = 256
    """Questions searched together, and between two writes to disk."""

    @property
    def passages_file(self) -> Path:
        """The file of passages.

        Raises:
            ConfigError: None is given.
        """
        if self.passages is None:
            need = "needs a file of passages: .tsv with id, text and title, or .jsonl"
            raise ConfigError(f"{type(self).__name__}.passages", None, need)
        return self.passages

    @property
    def pattern(self) -> str:
        """The glob pattern of the shards.

        Raises:
            ConfigError: None is given.
        """
        if not self.embeddings:
            need = "needs a pattern of shards, as wikipedia_embeddings/*"
            raise ConfigError(f"{type(self).__name__}.embeddings", self.embeddings, need)
        return self.embeddings


def contriever(model: str, **settings: Any) -> EmbedderConfig:
    """The embedder of a Contriever (arXiv:2112.09118): the mean of the last layer's states over all tokens, compared by
    inner product as it is, of at most 512 tokens.

    Args:
        model: A folder or a name on the HuggingFace hub, as `facebook/contriever-msmarco`.
        settings: Others of `EmbedderConfig`, or other values of these.
    """
    own: dict[str, Any] = {"kind": "huggingface", "pooling": "mean", "normalize": False, "max_tokens": 512}
    return EmbedderConfig(**(own | {"model": model} | settings))
