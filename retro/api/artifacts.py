"""What the stages of a run made, as numpy arrays and small objects."""

# Dims in this file. N rows of the database   D dimension of the vectors   C chunks of a stream   K neighbors

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import read_manifest, require_file
from retro.common.errors import ConfigError
from retro.common.files import read_json
from retro.common.hdf5 import map_column
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.index.embeddings import DATASET, FILE
from retro.neighbors.reader import Neighbors
from retro.run.config import RunConfig
from retro.run.pipeline import database_dirs, stage
from retro.training.log import read_log

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document of the corpus."""

    id: str
    title: str
    split: Split
    tokens: NDArray[Any]
    """[tokens] token ids, the end-of-document token last; memory-mapped."""


class ChunkNeighbors(NamedTuple):
    """The neighbors of all chunks of a training stream."""

    ids_CK: NDArray[np.int64]
    """[C, K] rows of the database, best first; -1 where there is none."""
    scores_CK: NDArray[np.float32]
    """[C, K] their scores; -inf where there is none."""


class Artifacts:
    """What the stages of a run made. Big arrays are memory-mapped: nothing is read before it is indexed.

    Every method raises ArtifactError where its stage is not complete, or a file is damaged; it names the command.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def path(self, name: str) -> Path:
        """The directory of a stage."""
        return stage(name).path(self._config)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus: its tokenizer, sources, documents and streams."""
        return Corpus.open(self.path("corpus"))

    @cached_property
    def database(self) -> ChunkDatabase:
        """The chunk database that neighbors come from: `text(row)`, `chunk_tokens(rows)`, `document_id(row)` …"""
        return open_database(database_dirs(self._config)[0], self.corpus)

    def documents(self, source: int | str = 0) -> list[Document]:
        """The documents of a source, in the order of its file.

        Args:
            source: Its name, or its number.

        Raises:
            ConfigError: There is no such source.
        """
        number = self._source(source)
        file, splits = self.corpus.token_file(number), self.corpus.split_of(number).tolist()
        starts = file.document_starts.tolist()
        names = self.corpus.document_names(number)
        return [
            Document(id=name["id"], title=name["title"], split=SPLITS[split], tokens=file.tokens[start:stop])  # type: ignore[arg-type]
            for name, split, start, stop in zip(names, splits, starts[:-1], starts[1:], strict=True)
        ]

    def stream(self, split: Split = "train", source: int | str = 0) -> TokenStream:
        """The documents of a split, end to end as models read them: chunk u is `tokens([u * M], M)`, M tokens a chunk.

        Raises:
            ConfigError: There is no such split or source.
        """
        return TokenStream(self.corpus, self._source(source), _number_of(split), self.database.chunk_length)

    def embeddings(self) -> NDArray[np.float16]:
        """[N, D] float16 vectors of all chunks, of length 1, in the order of rows; memory-mapped.

        Raises:
            ArtifactError: They were not kept (`index.keep_embeddings`).
        """
        directory = self.path("index")
        remedy = "Set index.keep_embeddings=true and run `retro index` with --redo"
        path = require_file(directory, read_manifest(directory, "index"), FILE, remedy)
        return map_column(path, DATASET, remedy)

    def neighbors(self, split: Split = "train", source: int | str = 0, k: int | None = None) -> ChunkNeighbors:
        """The neighbors of all chunks of a stream.

        Args:
            split: Whose chunks.
            source: Name or number of the source.
            k: Neighbors of each chunk; None: all that were saved.

        Raises:
            ConfigError: There is no such split or source, or fewer neighbors were saved.
        """
        found = Neighbors.open(self.path("neighbors"), self.database, self.corpus)
        where = (_number_of(split), self._source(source))
        rest = (np.arange(found.chunks(*where)), found.saved if k is None else k)
        return ChunkNeighbors(ids_CK=found.of(*where, *rest), scores_CK=found.scores(*where, *rest))

    def training_logs(self, name: Literal["pretrain", "sft"] = "pretrain") -> dict[str, list[dict[str, Any]]]:
        """The log of each model that a stage trains, by its folder: a dictionary for each line, losses in nats a token.

        Training need not have ended; where none has begun there are none.
        """
        directory = self.path(name)
        return {
            path.parent.relative_to(directory).as_posix(): read_log(path)
            for path in sorted(directory.rglob("log.jsonl"))
        }

    def perplexity(self) -> list[dict[str, Any]]:
        """The perplexity table: a dictionary for each model and choice of neighbors."""
        rows: list[dict[str, Any]] = self._json("perplexity", "perplexity.json")["rows"]
        return rows

    def scores(self) -> Mapping[str, Any]:
        """The scores of the answers, as `scores.json` has them: metrics, and by setting their values."""
        return self._json("evaluate", "scores.json")

    def _json(self, name: str, file: str) -> dict[str, Any]:
        directory, remedy = self.path(name), f"Run `retro {name}` with --redo"
        found: dict[str, Any] = read_json(require_file(directory, read_manifest(directory, name), file, remedy), remedy)
        return found

    def _source(self, source: int | str) -> int:
        names = self.corpus.sources
        if isinstance(source, str) and source in names:
            return names.index(source)
        if isinstance(source, int) and 0 <= source < len(names):
            return source
        raise ConfigError("source", source, f"needs one of {', '.join(names)}, or a number from 0 to {len(names) - 1}")


def _number_of(split: Split) -> int:
    if split not in SPLITS:
        raise ConfigError("split", split, f"needs one of {', '.join(SPLITS)}")
    return SPLITS.index(split)
