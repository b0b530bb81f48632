"""What a database of a given size takes: rows, disk, memory, FLOPs. docs/plan_db.md works the formulas by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.db.schema import COLUMNS
from retro.planning.faiss_bytes import IndexBytes, index_bytes, searched_bytes, training_flops
from retro.planning.faiss_string import FaissString

FRAME = 2
"""Tokens around a text, [CLS] and [SEP]."""


@dataclass(frozen=True)
class EmbedderShape:
    """A BERT-like encoder with a feed-forward of four times its width."""

    name: str
    layers: int
    width: int
    """D, values of a vector."""

    def flops(self, text_tokens: int) -> float:
        """FLOPs of one text, forward: 24 D^2 a token and layer for the matrices, 4 T D for attention over T tokens.

        Args:
            text_tokens: Tokens of the text by the embedder's own tokenizer; a plan takes as many as the chunk has.
        """
        tokens = text_tokens + FRAME
        return float(tokens * self.layers * (24 * self.width**2 + 4 * tokens * self.width))


EMBEDDERS: dict[str, EmbedderShape] = {
    shape.name: shape
    for shape in (
        EmbedderShape("bert-large", 24, 1024),
        EmbedderShape("bert-base", 12, 768),
        EmbedderShape("minilm-l6", 6, 384),
    )
}


def find_embedder(name: str) -> EmbedderShape:
    """The shape of that name.

    Raises:
        ConfigError: There is none; the nearest is named.
    """
    if name not in EMBEDDERS:
        need = unknown_name(name, list(EMBEDDERS)).replace("a setting", "an embedder of the table")
        raise ConfigError("--embedder", name, need)
    return EMBEDDERS[name]


DOCUMENT_TOKENS = 2400.0
"""Mean tokens of a document. Every document ends in a chunk that is half full on average; 19 billion chunks of 1.2
trillion tokens (arXiv:2310.07713) are this many tokens a document, as far as two rounded numbers can tell."""
SMALL_VOCABULARY = 65_500
"""Below it a token takes 2 bytes in Megatron's files, else 4."""
PER_CENTROID = 39
"""Training vectors for each list below which Faiss warns; it uses up to 256."""
_DOCUMENT_BYTES = {"idx": 4 + 8 + 8, "documents.h5": 1 + 8}
"""In the .idx length, place and boundary; in documents.h5 the split and the order of the stream."""
_NEIGHBOR_BYTES = 8 + 4
"""An id and a score."""


@dataclass(frozen=True, kw_only=True)
class DatabasePlan:
    """A database that may not exist yet."""

    tokens: float
    """Of the text, by the language model's tokenizer."""
    chunk_length: int
    """M, tokens of a chunk."""
    index: FaissString
    embedder: EmbedderShape
    document_tokens: float = DOCUMENT_TOKENS
    vocabulary: int = 50_257
    """Decides the bytes of a token on disk."""
    queries: float
    """Chunks whose neighbors are searched."""
    saved: int
    """K, neighbors stored for each."""
    sample: float
    """Vectors that train the index."""
    nprobe: int
    """Lists searched for a query."""

    def __post_init__(self) -> None:
        positive = {
            "--tokens": self.tokens, "--chunk": self.chunk_length, "--document-tokens": self.document_tokens,
            "--vocabulary": self.vocabulary, "--query-tokens": self.queries, "--neighbors": self.saved,
            "--nprobe": self.nprobe,
        }  # fmt: skip
        for option, value in positive.items():
            if not value > 0:
                raise ConfigError(option, value, "needs a positive number")
        if self.index.lists and not self.index.lists <= self.sample <= self.rows:
            need = f"needs at least one vector a list, {self.index.lists:,}, and at most all {self.rows:,} chunks"
            raise ConfigError("--sample", self.sample, need)

    @property
    def documents(self) -> int:
        """How many there are."""
        return max(1, round(self.tokens / self.document_tokens))

    @property
    def rows(self) -> int:
        """Chunks: full ones, and for each document half of one more."""
        return rows_of(self.tokens, self.chunk_length, self.document_tokens)

    @property
    def index_bytes(self) -> IndexBytes:
        """Bytes of the index by part."""
        return self._index_bytes

    @cached_property
    def _index_bytes(self) -> IndexBytes:
        return index_bytes(self.index, self.embedder.width, self.rows)

    @property
    def disk(self) -> dict[str, float]:
        """Bytes of each kind of file."""
        row_bytes = sum(dtype.itemsize for dtype in COLUMNS.values())
        return {
            "token files (.bin)": self.tokens * (2 if self.vocabulary < SMALL_VOCABULARY else 4),
            "where documents begin (.idx, documents.h5)": float(self.documents * sum(_DOCUMENT_BYTES.values())),
            "chunk database (db.h5)": float(self.rows * row_bytes),
            "embeddings, fp16": float(self.rows * self.embedder.width * 2),
            "index": self.index_bytes.total,
            "neighbors": self.queries * self.saved * _NEIGHBOR_BYTES,
        }

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of memory that each act takes, on every machine that does it."""
        inner = self.index.inner_dimension(self.embedder.width)
        copies = self.embedder.width + (inner if self.index.transforms else 0)
        found = {"searching, index in memory": self.index_bytes.total}
        if self.index.lists:
            found["searching, lists mapped from disk"] = self.index_bytes.resident
            found["training, sample in float32"] = 4.0 * self.sample * copies + self.index_bytes.centroids
        return found

    @property
    def embedding_flops(self) -> float:
        """Of all chunks."""
        return self.rows * self.embedder.flops(self.chunk_length)

    @property
    def training_flops(self) -> float:
        """Of clustering the sample."""
        return training_flops(self.index, self.embedder.width, self.sample)

    @property
    def searched_bytes(self) -> float | None:
        """Bytes of codes that one query reads; None where no formula tells."""
        return searched_bytes(self.index, self.embedder.width, self.rows, self.nprobe)


def rows_of(tokens: float, chunk_length: int, document_tokens: float = DOCUMENT_TOKENS) -> int:
    """Chunks of so many tokens: full ones, and for each document half of one more."""
    return round(tokens / chunk_length + tokens / document_tokens / 2)


def default_sample(index: FaissString, rows: int) -> float:
    """As many vectors as Faiss wants for each list, or all there are."""
    return float(min(rows, PER_CENTROID * index.lists))
