"""Look at what a run is made of: a chunk, the neighbors of a chunk, a training sample."""

from __future__ import annotations

import numpy as np
from rich.panel import Panel
from rich.text import Text

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.progress import output
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.pipeline import stage
from retro.run_config import RunConfig


def show(config: RunConfig, what: str, number: int, *, split: str, source: int) -> None:
    """Print one thing.

    Args:
        config: The run.
        what: chunk, neighbors or sample.
        number: Row of the database; chunk of the stream; or sequence of the stream.
        split: Which stream: train, valid or test.
        source: Which corpus's stream.

    Raises:
        ConfigError: There is no such thing.
    """
    views = {"chunk": _chunk, "neighbors": _neighbors, "sample": _sample}
    if what not in views:
        raise ConfigError("inspect", what, unknown_name(what, list(views)).replace("a setting", "a view"))
    if split not in SPLITS:
        raise ConfigError("--split", split, unknown_name(split, SPLITS).replace("a setting", "a split"))
    corpus = Corpus.open(stage("corpus").path(config))
    if not 0 <= source < len(corpus.sources):
        raise ConfigError("--source", source, f"needs a number from 0 to {len(corpus.sources) - 1}")
    database = ChunkDatabase.open(stage("db").path(config), corpus)
    views[what](config, corpus, database, number, SPLITS.index(split), source)


def _require(what: str, number: int, total: int) -> None:
    if not 0 <= number < total:
        raise ConfigError(what, number, f"needs a number from 0 to {total - 1}")


def _chunk(config: RunConfig, corpus: Corpus, database: ChunkDatabase, row: int, split: int, source: int) -> None:
    _require("chunk", row, database.rows)
    output.print(_database_panel(database, row, "chunk"))
    if database.columns["continues"][row]:
        output.print(_database_panel(database, row + 1, "continuation"))


def _database_panel(database: ChunkDatabase, row: int, what: str, score: float | None = None) -> Panel:
    title = database.document_title(row)
    head = f"{what}: row {row}, {database.document_id(row)}" + (f" ({title})" if title else "")
    foot = f"{int(database.columns['token_count'][row])} tokens"
    if score is not None:
        foot += f", score {score:.3f}"
    return Panel(Text(database.text(row)), title=Text(head), subtitle=foot, title_align="left", subtitle_align="left")


def _neighbors(
    config: RunConfig, corpus: Corpus, database: ChunkDatabase, number: int, split: int, source: int
) -> None:
    stream = TokenStream(corpus, source, split, database.chunk_length)
    _require("neighbors", number, stream.chunks)
    neighbors = Neighbors.open(stage("neighbors").path(config), database, corpus)
    _show_with_neighbors(config, corpus, database, neighbors, stream, number, split, source)


def _sample(config: RunConfig, corpus: Corpus, database: ChunkDatabase, number: int, split: int, source: int) -> None:
    stream = TokenStream(corpus, source, split, database.chunk_length)
    chunks = config.model.sequence_length // database.chunk_length
    _require("sample", number, stream.chunks // chunks)
    neighbors = Neighbors.open(stage("neighbors").path(config), database, corpus)
    for chunk in range(number * chunks, (number + 1) * chunks):
        _show_with_neighbors(config, corpus, database, neighbors, stream, chunk, split, source)


def _show_with_neighbors(
    config: RunConfig,
    corpus: Corpus,
    database: ChunkDatabase,
    neighbors: Neighbors,
    stream: TokenStream,
    chunk: int,
    split: int,
    source: int,
) -> None:
    tokens = stream.tokens([chunk * stream.chunk_length], stream.chunk_length)[0]
    documents = ", ".join(corpus.document_id(source, int(one)) for one in stream.own_documents(chunk))
    head = Text(f"chunk {chunk} of the {SPLITS[split]} stream; own documents: {documents}")
    text = Text(corpus.tokenizer.decode(tokens.tolist()))
    output.print(Panel(text, title=head, title_align="left", border_style="bold"))
    ids = neighbors.of(split, source, np.array([chunk]), config.model.neighbors)[0]
    for place, row in enumerate(ids.tolist(), start=1):
        if row < 0:
            output.print(f"neighbor {place}: none", highlight=False)
            continue
        output.print(_database_panel(database, row, f"neighbor {place}"))
