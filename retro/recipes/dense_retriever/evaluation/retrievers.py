"""Retrievers of the comparison, opened for a set of passages; what has to be derived for one is made first, and kept.

    stores/KEY/passages_00 …   embeddings of a retriever, for each passages and embedder; stores/KEY/.retro beside them
    stores/KEY/words           the BM25 index

The folder `stores` is the recipe's: what is in it outlives the step that made it, and is checked when it is used again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retro.common.artifacts import fingerprint
from retro.common.config import config_json
from retro.index.config import EmbedderConfig
from retro.recipes.dense_retriever.evaluation.config import EmbedConfig, EvaluationConfig, RetrieverConfig
from retro.recipes.dense_retriever.evaluation.word_search import HybridPassages, Recorded, WordSearch
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.search import PassageRetriever, PassageSearch
from retro.recipes.passages.store import STORE


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """The model of the run."""

    embedder: EmbedderConfig
    """How it embeds."""
    title: bool
    """Whether it reads titles."""


def passages_config(passages: Path, embedder: EmbedderConfig, embed: EmbedConfig, *, title: bool) -> PassagesConfig:
    """Settings of passages that an embedder embeds and searches."""
    same = ("dtype", "faiss", "nprobe", "ef_search", "passages_per_block")
    own = {name: getattr(embed, name) for name in same}
    return PassagesConfig(passages=passages, embedder=embedder, title=title, **own)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What `embed_all` left."""

    files: list[str]
    passages: int
    dimension: int


def embed_all(config: PassagesConfig, out: Path, passages_per_shard: int) -> Embedded:
    """Embed all passages into `out`, in as many shards as they need. It goes on where it was stopped.

    Raises:
        RetroError: As `embed_shard`.
    """
    out.mkdir(parents=True, exist_ok=True)
    passages = Passages.open(config.passages_file, out / STORE)
    shards = max(1, math.ceil(len(passages) / passages_per_shard))
    made = [embed_shard(config, out, number, shards) for number in range(shards)]
    return Embedded(files=[one.path.name for one in made], passages=len(passages), dimension=made[0].dimension)


@dataclass(frozen=True, kw_only=True)
class Retrievers:
    """Opens retrievers over one file of passages."""

    passages: Passages
    stores: Path
    embed: EmbedConfig
    settings: EvaluationConfig
    tuned: TunedModel | None
    embedded: Path | None = None
    """Where the tuned model's embeddings of these passages are already; None: nowhere."""

    def open(self, one: RetrieverConfig, found: Mapping[str, Mapping[str, Sequence[str]]]) -> PassageSearch:
        """A retriever.

        Args:
            one: Which.
            found: What those that a hybrid is made of found: by retriever and question, ids of passages, best first.
                They are not searched again, and not in memory at once.

        Raises:
            DependencyError: A package that it needs is missing.
            DataError, ArtifactError: A model or a file cannot be used.
        """
        if one.kind == "bm25":
            return self._words()
        if one.kind == "hybrid":
            first, second = (Recorded(found[name]) for name in one.of)
            return HybridPassages(first, second, self.passages, one.rrf_constant, self.settings.depth)
        if one.embedder is not None:
            return self._dense(one.embedder, title=True, folder=None)
        if self.tuned is None:
            raise ValueError("the tuned model is not there")
        return self._dense(self.tuned.embedder, title=self.tuned.title, folder=self.embedded)

    def _words(self) -> WordSearch:
        return WordSearch.open(self.passages, self._store("words"), self.settings.bm25)

    def _dense(self, embedder: EmbedderConfig, *, title: bool, folder: Path | None) -> PassageRetriever:
        config = passages_config(self.passages.file, embedder, self.embed, title=title)
        if folder is None:
            about = {"embedder": config_json(embedder), "title": title, "embed": self.embed.shaping}
            if embedder.model is not None and Path(embedder.model).is_dir():
                about |= {"weights": _weights(Path(embedder.model))}
            folder = self._store(fingerprint(about)[:16])
            embed_all(config, folder, self.embed.passages_per_shard)
        return PassageRetriever.open(config.model_copy(update={"embeddings": str(folder)}))

    def _store(self, name: str) -> Path:
        return self.stores / f"{self.passages.fingerprint[:16]}-{name}"


def _weights(folder: Path) -> str:
    from retro.index.weights import weights_digest

    return weights_digest(folder)
