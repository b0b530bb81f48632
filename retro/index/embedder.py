"""What an embedder is, and the registry of them. Nothing heavy is imported here: configs read it.

A class of another package derives from `Embedder`, in one file (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from retro.common.errors import ConfigError, DataError
from retro.common.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retro.index.config import EmbedderConfig


def ignore(count: int) -> None:
    """Take no note of progress."""


class Embedder(ABC):
    """Turns texts into vectors whose inner product says how alike they are.

    The class says what a run has to know before any vector is made; an object makes them.
    """

    makes_vectors: ClassVar[bool] = True
    """False for a kind with which only words can be searched."""

    learned_file: ClassVar[str] = ""
    """HDF5 file beside the index that holds what `learn` gives; empty: it learns nothing from the training texts."""

    settings: ClassVar[tuple[str, ...]] = ("options",)
    """Which of the settings in `OPTIONAL` it reads; the others are refused."""

    dimension: int
    """D, length of the vectors."""

    identity: dict[str, str | int]
    """What decides the vectors; equal identities give equal vectors. Stored with the index, and compared."""

    def __init__(self, config: EmbedderConfig) -> None:
        """Make one of settings that `check` has passed."""
        self.config = config

    @classmethod
    def check(cls, config: EmbedderConfig) -> None:
        """Check the settings before anything runs.

        Raises:
            ConfigError: One of them cannot work, or is not for this kind.
        """
        cls.refuse_unread(config, f"kind {config.kind!r}, which does not read it")

    @classmethod
    def refuse_unread(cls, config: EmbedderConfig, why: str) -> None:
        """Raise ConfigError for a setting of `OPTIONAL` that is given and that this class does not read."""
        for name in OPTIONAL:
            value, field = getattr(config, name), type(config).model_fields[name]
            if name not in cls.settings and value != field.get_default(call_default_factory=True):
                raise ConfigError(f"{type(config).__name__}.{name}", value, f"needs to be left out for {why}")

    @classmethod
    def learn(cls, config: EmbedderConfig, texts: Iterable[Sequence[str]]) -> Mapping[str, NDArray[Any]]:
        """Arrays that are counted or trained on texts of the train split, some at a time, by name, of equal lengths.

        Called where `learned_file` is set, once for all workers; `open` reads them from that file.
        """
        return {}

    @classmethod
    def open(cls, config: EmbedderConfig, directory: Path) -> Embedder:
        """The embedder itself.

        Args:
            config: Its settings, precision chosen.
            directory: Of the index; holds `learned_file`.

        Raises:
            DataError, DependencyError: The model is missing, is not the one meant, or cannot be loaded.
            ArtifactError: What it learned is missing or damaged.
        """
        return cls(config)

    @abstractmethod
    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        """Vectors of texts to be found: chunks of the database.

        Args:
            texts: [N] texts.
            advance: Called with the number of texts done since the last call.

        Returns:
            [N, D] float32; all zeros for a text that says nothing, which then finds nothing and is not found.
        """

    def embed_queries(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        """Vectors of texts to search with, as `embed_passages` gives them. The same, unless a class says otherwise."""
        return self.embed_passages(texts, advance)

    @property
    def symmetric(self) -> bool:
        """Whether a text has one vector as query and as passage, so that stored ones may be searched with."""
        return type(self).embed_queries is Embedder.embed_queries


OPTIONAL = (
    *("model", "sha256", "query_model", "query_sha256", "query_prefix", "passage_prefix"),
    *("pooling", "normalize", "options"),
)
"""Settings that not every embedder reads."""


def require_vectors(embedder: Embedder, vectors: Any, count: int) -> NDArray[np.float32]:
    """Vectors as an embedder gave them, checked: a class of another package may give anything.

    Args:
        embedder: Which gave them.
        vectors: What it gave.
        count: Texts that it was given, N.

    Returns:
        [N, D] float32.

    Raises:
        DataError: They have another shape or type, or a value that is not a number.
    """
    import numpy as np

    found = np.asarray(vectors)
    wanted = (count, embedder.dimension)
    remedy = "Fix embed_queries and embed_passages of that class"
    if found.shape != wanted or found.dtype.kind != "f":
        problem = f"gave an array {found.dtype} {found.shape}, needed are floats {wanted}"
        raise DataError(type(embedder).__name__, problem, remedy)
    single = found.astype(np.float32, copy=False)
    if not np.isfinite(single).all():
        raise DataError(type(embedder).__name__, "gave a vector with infinite values or NaN", remedy)
    return single


def _embedder_class(found: object) -> type[Embedder]:
    if not (isinstance(found, type) and issubclass(found, Embedder)):
        raise TypeError(f"is {found!r}, needs to be a class that derives from retro.index.embedder.Embedder")
    # Said when it is named, not by a worker after the texts were read.
    if found.learned_file and "learn" not in {
        name for one in found.__mro__ if one is not Embedder for name in vars(one)
    }:
        raise TypeError(f"has learned_file {found.learned_file!r}, needs a `learn` that gives what goes into it")
    return found


EMBEDDERS: Registry[type[Embedder]] = Registry(
    "retro.embedders",
    "a kind of embedder",
    {
        "hashing": "retro.index.kinds:Hashing",
        "sentence_transformers": "retro.index.kinds:SentenceTransformers",
        "huggingface": "retro.index.kinds:HuggingFace",
        "bm25": "retro.index.kinds:Bm25",
    },
    _embedder_class,
)
"""Every kind of embedder, for `index.embedder.kind`."""
