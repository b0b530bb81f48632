"""What of a passage is embedded, and by what: one embedder for all shards of a folder, and for the questions.

It is written down beside the shards, with what it learned, so that vectors of two models never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.index.config import EmbedderConfig
from retro.index.embedder import EMBEDDERS, Embedder
from retro.index.embedders import DESCRIPTION, describe_embedder, make_embedder
from retro.index.embeddings import sample_rows
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.passages import Passages

EMBEDDER_FOLDER = "embedder"
"""Below the store: which embedder made the shards, and what it learned."""
_STAGE = "recipe"
_LEARNED_FROM = 100_000
"""Passages that an embedder without weights counts words in."""
_TEXTS_AT_ONCE = 2_048


def embedded_text(passage: Passage, *, title: bool, lowercase: bool) -> str:
    """What of a passage is embedded: the title, a blank and the text, or the text alone."""
    text = f"{passage.title} {passage.text}" if title and passage.title else passage.text
    return text.lower() if lowercase else text


def shared_embedder(config: PassagesConfig, passages: Passages, store: Path) -> Embedder:
    """The embedder of all shards in a store. Whoever comes first writes down which it is, and learns for all.

    Raises:
        ConfigError: It makes no vectors.
        ArtifactError: The shards there were made by another one.
        DataError, DependencyError: The model is missing or cannot be loaded.
    """
    directory = store / EMBEDDER_FOLDER
    recorded = _recorded(config.embedder, directory)
    if recorded is not None:
        return recorded
    learned_from = fingerprint({"passages": passages.fingerprint, "title": config.title, "lower": config.lowercase})
    texts = _texts_to_learn_from(config, passages)
    embedder = make_embedder(
        config.embedder, directory, texts, learned_from=learned_from, coordinator=Coordinator(directory, stage=_STAGE)
    )
    describe_embedder(config.embedder, embedder, directory)
    return embedder


def query_embedder(config: PassagesConfig, store: Path) -> Embedder:
    """The embedder of questions: the one that made the shards, where it is known, and it has to be the one asked for.

    Raises:
        ConfigError: It makes no vectors.
        ArtifactError: The shards were made by another one, or by one that learned what is not there.
        DataError, DependencyError: The model is missing or cannot be loaded.
    """
    directory = store / EMBEDDER_FOLDER
    recorded = _recorded(config.embedder, directory)
    if recorded is not None:
        return recorded
    if learned := config.embedder.embedder_class.learned_file:
        problem = f"is missing, and vectors of kind {config.embedder.kind!r} are compared by what it learned"
        raise ArtifactError(directory / learned, problem, "Embed the passages with the same settings first")
    return _open(config.embedder, directory)


def _recorded(asked: EmbedderConfig, directory: Path) -> Embedder | None:
    """The embedder asked for, where it is the one described in a folder; None where none is, or no identity yet.

    Raises:
        ConfigError: The one asked for makes no vectors.
        ArtifactError: It is another one.
    """
    if not asked.makes_vectors:
        raise ConfigError("embedder.kind", asked.kind, "needs a kind that makes vectors")
    path = directory / DESCRIPTION
    described = read_json(path, f"Delete {path}") if path.exists() else {}
    if "identity" not in described:
        return None
    recorded, kind = described["identity"], described["config"]["kind"]
    found: Mapping[str, Any] = {"kind": asked.kind}
    if asked.kind == kind:
        precision = described["config"]["precision"] if asked.precision == "auto" else asked.precision
        embedder = _open(asked.model_copy(update={"precision": precision}), directory)
        found = embedder.identity
    # Only what decides the vectors: a model may lie in another folder now.
    changed = [name for name in sorted({*recorded, *found}) if recorded.get(name) != found.get(name)]
    if changed:
        name = "kind" if asked.kind != kind else changed[0]
        was, now = (kind, asked.kind) if name == "kind" else (recorded.get(name), found.get(name))
        problem = f"says that passages were embedded with {name} {was!r}; here it is {now!r}"
        raise ArtifactError(path, problem, "Use the embedder that made the shards, or embed into another folder")
    return embedder


def _open(config: EmbedderConfig, directory: Path) -> Embedder:
    return EMBEDDERS.find(config.kind, "embedder.kind").open(config, directory)


def _texts_to_learn_from(config: PassagesConfig, passages: Passages) -> Callable[[], Iterator[Sequence[str]]]:
    def texts() -> Iterator[Sequence[str]]:
        rows = sample_rows(range(len(passages)), _LEARNED_FROM, config.seed).tolist()
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            found = passages.at(rows[start : start + _TEXTS_AT_ONCE])
            yield [embedded_text(one, title=config.title, lowercase=config.lowercase) for one in found]

    return texts
