"""Settings of BM25, and of how candidates are found: by vectors, by words, or by both."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError

DIRECTORY = "bm25"
"""Below the directory of the index stage, or of a version of a living database."""
MISSING_REMEDY = (
    "Run `retro index` with the settings that ask for it (neighbors.source, search.source or rerank), in the run that "
    "the database belongs to: it builds what is missing"
)


class Bm25Config(StageConfig):
    """How words are weighed (Robertson and Zaragoza 2009; the variants: Kamphuis et al. 2020, and bm25s's README)."""

    method: Literal["lucene", "robertson", "atire", "bm25l", "bm25+"] = "lucene"
    """The variant of BM25, by the name that bm25s has for it."""

    k1: NonNegativeFloat = 0.9
    """How soon further occurrences of a word in a chunk stop to count. 0.9 with b = 0.4 found neighbors that share more
    of the continuation's words than bm25s's own 1.5 and 0.75 did (docs/results/neighbor_sources.md)."""

    b: float = Field(default=0.4, ge=0, le=1)
    """How much a long chunk has to have more of a word: 0 not at all, 1 in proportion to its length."""

    delta: NonNegativeFloat = 0.5
    """What `bm25l` and `bm25+` add for a word that occurs; the other methods do not read it."""

    chunks_per_block: PositiveInt = 50_000
    """Chunks in one block, the unit of resuming and of parallel work."""

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the artifact depends on, as plain JSON values."""
        settings = config_json(self)
        del settings["chunks_per_block"]
        return settings


class SearchConfig(StageConfig):
    """By what the database is searched."""

    source: Literal["dense", "bm25", "hybrid"] = "dense"
    """Where candidates come from: `dense`, the index of vectors; `bm25`, the words they share with the query; `hybrid`,
    both, joined by reciprocal rank fusion. What a neighbor is worth while a model predicts follows the tokens that it
    shares with the text (Norlund et al. 2023, "On the Generalization Ability of Retrieval-Enhanced Transformers"), and
    neighbors by BM25 lowered perplexity further than dense ones (Doostmohammadi et al. 2023, "Surface-Based Retrieval
    Reduces Perplexity of Retrieval-Augmented Language Models", arXiv:2305.16243)."""

    rerank: Literal["none", "bm25"] = "none"
    """With `source = dense`: `bm25` re-ranks the dense index's candidates, which gives much of BM25's gain
    where searching every chunk by words is too slow (the same paper)."""

    rerank_depth: PositiveInt = 1000
    """Candidates of the dense index that `rerank` re-ranks."""

    rrf_constant: PositiveInt = 60
    """With `source = hybrid`: a candidate scores the sum of 1 / (constant + rank) over the lists it is in (Cormack et
    al. 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods")."""

    @model_validator(mode="after")
    def _something_to_order(self) -> Self:
        if self.rerank != "none" and self.source != "dense":
            need = f"needs to be none with source = {self.source!r}: only candidates of the dense index are re-ranked"
            raise ConfigError(f"{type(self).__name__}.rerank", self.rerank, need)
        return self

    @property
    def reads_vectors(self) -> bool:
        """Whether the index of vectors is searched."""
        return self.source != "bm25"

    @property
    def reads_words(self) -> bool:
        """Whether the BM25 index is searched."""
        return self.source != "dense" or self.rerank == "bm25"

    @property
    def search_settings(self) -> dict[str, Any]:
        """Those of these settings that change what is found, as plain JSON values; none for a plain dense search, so
        that what was made before there were others stays valid."""
        if not self.reads_words:
            return {}
        settings: dict[str, Any] = {"source": self.source, "rerank": self.rerank}
        if self.rerank == "bm25":
            settings["rerank_depth"] = self.rerank_depth
        if self.source == "hybrid":
            settings["rrf_constant"] = self.rrf_constant
        return settings
