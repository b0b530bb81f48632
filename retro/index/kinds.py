"""The built-in kinds of embedder: what a config has to know of each. What computes is imported when one is opened."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.errors import ConfigError
from retro.index.config import BUILT_IN_MODEL, EmbedderConfig
from retro.index.embedder import OPTIONAL, Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Hashing(Embedder, ABC):
    """Words and word pairs, tf-idf, no weights; counts document frequencies in training texts."""

    learned_file = "hashing.h5"
    settings = ()

    @classmethod
    def check(cls, config: EmbedderConfig) -> None:
        """See `Embedder`."""
        cls.refuse_unread(config, f"kind {config.kind!r}, which has no weights")

    @classmethod
    def learn(cls, config: EmbedderConfig, texts: Iterable[Sequence[str]]) -> Mapping[str, NDArray[Any]]:
        """Inverse document frequencies."""
        from retro.index.hashing import count_documents

        return {"idf": count_documents(texts)}

    @classmethod
    def open(cls, config: EmbedderConfig, directory: Path) -> Embedder:
        """See `Embedder`."""
        from retro.index.hashing import HashingEmbedder

        return HashingEmbedder.read(config, directory / cls.learned_file)


class _Neural(Embedder, ABC):
    """A model with weights, read from a folder."""

    settings = tuple(name for name in OPTIONAL if name != "options")

    @classmethod
    def check(cls, config: EmbedderConfig) -> None:
        """See `Embedder`."""
        owner = type(config).__name__
        if not config.model:
            need = f"needs a folder, a hub name or {BUILT_IN_MODEL!r} for kind {config.kind!r}"
            raise ConfigError(f"{owner}.model", config.model, need)
        if config.query_sha256 and not config.query_model:
            need = "needs to be left out without query_model, whose weights it is of"
            raise ConfigError(f"{owner}.query_sha256", config.query_sha256, need)
        cls.refuse_unread(config, f"kind {config.kind!r}, which does not read it")


class SentenceTransformers(_Neural, ABC):
    """A sentence-transformers folder, which says itself how it pools."""

    settings = tuple(name for name in _Neural.settings if name != "pooling")

    @classmethod
    def open(cls, config: EmbedderConfig, directory: Path) -> Embedder:
        """See `Embedder`."""
        from retro.index.neural import SentenceTransformersEmbedder

        return SentenceTransformersEmbedder(config)


class HuggingFace(_Neural, ABC):
    """Any HuggingFace encoder, its last layer pooled."""

    @classmethod
    def open(cls, config: EmbedderConfig, directory: Path) -> Embedder:
        """See `Embedder`."""
        from retro.index.neural import HuggingFaceEmbedder

        return HuggingFaceEmbedder(config)


class Bm25(Embedder, ABC):
    """No vectors: the run is searched by words alone."""

    makes_vectors = False
    settings = ()

    @classmethod
    def check(cls, config: EmbedderConfig) -> None:
        """See `Embedder`."""
        cls.refuse_unread(config, f"kind {config.kind!r}, which has no weights")
