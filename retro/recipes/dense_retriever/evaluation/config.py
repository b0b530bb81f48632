"""Settings of the steps `embed` and `evaluate`: the sections `embed` and `evaluate` of the recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import require
from retro.common.precision import Precision
from retro.index.config import BUILT_IN_MODEL, EF_SEARCH, NPROBE, Bm25Config, EmbedderConfig

TUNED = "tuned"
Kind = Literal["tuned", "embedder", "bm25", "hybrid"]
Against = Literal["passages", "positives"]
_LEAST_DEPTH = 100
"""Joined lists of five passages are hardly joined: what one retriever has at rank 6 cannot be raised by the other."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class EmbedConfig(StageConfig):
    """How passages are embedded and searched, by the tuned model and by those that it is compared with."""

    precision: Precision = "auto"
    """What the tuned model computes in; `auto` as `index.embedder.precision`."""

    batch_tokens: PositiveInt = 4096
    """Tokens of one batch of the tuned model."""

    dtype: Literal["float16", "float32"] = "float16"
    """What vectors are stored in: 2 or 4 bytes per value."""

    passages_per_block: PositiveInt = 10_000
    """Passages embedded between two writes to disk; a killed process loses at most one block."""

    passages_per_shard: PositiveInt = 500_000
    """Passages in a file of embeddings, which is in memory as a whole when it is written: 768 MB for 768 values."""

    faiss: str = "Flat"
    """A Faiss factory string; `Flat` compares every vector and holds 4 bytes per value in memory, `mapped` finds the
    same from disk."""

    nprobe: PositiveInt = NPROBE
    """Inverted lists searched per question, for IVF strings."""

    ef_search: PositiveInt = EF_SEARCH
    """Candidates kept while an HNSW graph is searched."""

    @property
    def shaping(self) -> dict[str, Any]:
        """What the embeddings depend on; how they are searched is what `evaluate` depends on."""
        kept = ("precision", "batch_tokens", "dtype", "passages_per_block", "passages_per_shard")
        return {name: value for name, value in config_json(self).items() if name in kept}


class RetrieverConfig(StageConfig):
    """One retriever of the comparison."""

    name: str
    """Its name in tables and files."""

    kind: Kind
    """`tuned`: the model of this run. `embedder`: any other, as it is. `bm25`: words. `hybrid`: two of the others,
    joined by reciprocal rank fusion."""

    embedder: EmbedderConfig | None = None
    """For `embedder`."""

    of: tuple[str, ...] = ()
    """For `hybrid`: the names of the two."""

    rrf_constant: PositiveInt = 60
    """For `hybrid`: a passage scores the sum of 1 / (constant + rank) over the lists that it is in."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        require(self, "name", _NAME.fullmatch(self.name) is not None, "letters, digits, dots, dashes and underscores")
        need = "an embedder for kind = embedder, and none for the others"
        require(self, "embedder", (self.embedder is not None) == (self.kind == "embedder"), need)
        if self.embedder is not None:
            require(self, "embedder", self.embedder.makes_vectors, "a kind that makes vectors; BM25 is kind: bm25")
        two = len(set(self.of)) == len(self.of) == 2
        need = "the names of two other retrievers for kind = hybrid, and none for the others"
        require(self, "of", two if self.kind == "hybrid" else not self.of, need)
        return self


RETRIEVERS = (
    RetrieverConfig(name=TUNED, kind="tuned"),
    RetrieverConfig(
        name="minilm", kind="embedder", embedder=EmbedderConfig(kind="sentence_transformers", model=BUILT_IN_MODEL)
    ),
    RetrieverConfig(name="bm25", kind="bm25"),
    RetrieverConfig(name="hybrid", kind="hybrid", of=(TUNED, "bm25")),
)


class BeirConfig(StageConfig):
    """A folder in BEIR's form that is searched in too."""

    path: Path
    """The folder, with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

    name: str = ""
    """In tables and files; empty: the folder's name."""

    split: Literal["train", "dev", "test"] = "test"
    """Whose questions are asked."""

    exclude_own_id: bool = True
    """Leave a document out of what is found for a question of the same id, as BEIR does: in ArguAna and Quora the
    questions are documents."""

    @property
    def title(self) -> str:
        """The name in tables and files."""
        return self.name or self.path.resolve().name

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        require(self, "name", _NAME.fullmatch(self.title) is not None, "letters, digits, dots, dashes and underscores")
        return self


class EvaluationConfig(StageConfig):
    """What is asked, of what, and what searches."""

    retrievers: tuple[RetrieverConfig, ...] = Field(default=RETRIEVERS, min_length=1)
    """Compared with each other; differences are from the first."""

    against: tuple[Against, ...] = ("passages", "positives")
    """What the held-out pairs are searched in. `passages`: all segments. `positives`: the positives of these pairs
    alone, which is what the original reports and is easier by far."""

    overlap: float = Field(default=0.5, gt=0, le=1)
    """A segment counts as right if it is of the pair's document and shares at least this part of its word trigrams with
    the positive, of the shorter text's."""

    questions: Path | None = None
    """Further questions with answer strings, as Natural Questions' test set, searched in all segments."""

    beir: tuple[BeirConfig, ...] = ()
    """Folders in BEIR's form, each searched in its own corpus."""

    at: tuple[PositiveInt, ...] = Field(default=(1, 5, 20, 100), min_length=1)
    """Numbers of passages among which one has to be right. As many as the greatest are found, and at least 100, which
    nDCG@10, MRR and hybrid lists are made of."""

    limit: PositiveInt | None = None
    """Only the first so many questions of each set; absent: all."""

    bm25: Bm25Config = Bm25Config()
    """How words are weighed."""

    questions_per_block: PositiveInt = 256
    """Questions searched together, and between two writes to disk."""

    cases: NonNegativeInt = 20
    """Questions on the page that the first two retrievers answer differently."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [one.name for one in self.retrievers]
        require(self, "retrievers", len(set(names)) == len(names), "each name once")
        simple = {one.name for one in self.retrievers if one.kind != "hybrid"}
        for one in self.retrievers:
            require(self, "retrievers", set(one.of) <= simple, f"in `of` of {one.name} two that are no hybrids")
        require(self, "at", sorted(set(self.at)) == list(self.at), "ascending numbers, each once")
        titles = [*self.against, *(["questions"] if self.questions else []), *(one.title for one in self.beir)]
        require(self, "beir", len(set(titles)) == len(titles), f"names of their own, beside {', '.join(self.against)}")
        asked = bool(titles)
        require(self, "against", asked, "something to search in: passages, positives, questions or a BEIR folder")
        return self

    @property
    def depth(self) -> int:
        """Passages found for a question, by each retriever."""
        return max(self.at[-1], _LEAST_DEPTH)

    @property
    def tuned(self) -> bool:
        """Whether the model of this run is among the retrievers."""
        return any(one.kind == "tuned" for one in self.retrievers)

    @property
    def searches_segments(self) -> bool:
        """Whether all segments are searched."""
        return "passages" in self.against or self.questions is not None
