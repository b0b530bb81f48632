"""`retro inspect`: a chunk, its neighbors, a training or tuning sample, the database; on the terminal or as a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from retro.analysis.inspect import terminal
from retro.analysis.inspect.distributions import Distributions, chunk_lengths, distributions, rows_by_source
from retro.analysis.inspect.page import write_samples
from retro.analysis.inspect.tuning import tuning_sample
from retro.analysis.inspect.view import SampleViewer
from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.terminal import output, styled
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.neighbors.reader import Neighbors
from retro.run.config import RunConfig
from retro.run.pipeline import database_dirs, stage
from retro.sft.sets import Part

VIEWS = ("chunk", "neighbors", "sample", "tuning", "database")
_TUNING_PARTS: dict[str, Part] = {"train": "train", "valid": "dev"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked to see."""

    what: str
    """One of `VIEWS`."""
    number: int = 0
    """Row of the database; chunk or sample of the stream; or question of the sets that are tuned on."""
    split: str = "train"
    source: int = 0
    neighbors: int | None = None
    """Shown of a chunk; None: as many as the model reads."""
    html: Path | None = None
    """Write a page instead."""
    samples: int = 20
    """On that page, from `number` on."""
    as_json: bool = False
    """Print it for machines."""


def view_and_number(words: list[str]) -> tuple[int, list[str]]:
    """The number among a command's words, 0 without one, and the words that are left."""
    if words and words[0].lstrip("-").isdecimal():
        return int(words[0]), words[1:]
    return 0, words


def show(config: RunConfig, wanted: Options) -> None:
    """Print one thing, or write a page of samples.

    Raises:
        ConfigError: There is no such thing.
        ArtifactError: The run has not come that far.
    """
    if wanted.what not in VIEWS:
        need = unknown_name(wanted.what, list(VIEWS)).replace("a setting", "a view")
        raise ConfigError("inspect", wanted.what, need)
    if wanted.split not in SPLITS:
        raise ConfigError("--split", wanted.split, unknown_name(wanted.split, SPLITS).replace("a setting", "a split"))
    if wanted.html is not None and wanted.what != "sample":
        raise ConfigError("--html", str(wanted.html), "needs `retro inspect sample`: a page is made of samples")
    if wanted.html is not None and (wanted.html.is_dir() or not wanted.html.absolute().parent.is_dir()):
        raise ConfigError("--html", str(wanted.html), "needs the name of a file in a folder that exists")
    if wanted.what == "tuning":
        _show_tuning(config, wanted)
        return
    corpus = Corpus.open(stage("corpus").path(config))
    if not 0 <= wanted.source < len(corpus.sources):
        raise ConfigError("--source", wanted.source, f"needs a number from 0 to {len(corpus.sources) - 1}")
    database = open_database(database_dirs(config)[0], corpus)
    if wanted.what == "chunk":
        _show_row(database, wanted.number, as_json=wanted.as_json)
    elif wanted.what == "database":
        _show_database(config, corpus, database, wanted)
    else:
        _show_stream(_looker(config, corpus, database, wanted), wanted)


def _show_tuning(config: RunConfig, wanted: Options) -> None:
    if wanted.split not in _TUNING_PARTS:
        raise ConfigError("--split", wanted.split, "needs train or valid: nothing is tuned on the test split")
    sample = tuning_sample(config, _TUNING_PARTS[wanted.split], wanted.number)
    if wanted.as_json:
        output.json(asdict(sample))
    else:
        terminal.show_tuning(sample)


def _require(what: str, number: int, total: int) -> None:
    if not 0 <= number < total:
        need = f"needs a number from 0 to {total - 1}" if total else "cannot be shown: there is none"
        raise ConfigError(what, number, need)


def _show_row(database: ChunkDatabase, row: int, *, as_json: bool) -> None:
    _require("chunk", row, database.rows)
    continuation = database.text(row + 1) if bool(database.columns["continues"][row]) else None
    if not as_json:
        terminal.show_row(database, row, database.text(row), continuation)
        return
    tokens = int(database.columns["token_count"][row])
    known = {"row": row, "document": database.document_id(row), "title": database.document_title(row), "tokens": tokens}
    output.json(known | {"text": database.text(row), "continuation": continuation})


def _show_database(config: RunConfig, corpus: Corpus, database: ChunkDatabase, wanted: Options) -> None:
    rows = rows_by_source(database)
    searched = (stage("neighbors").path(config) / "manifest.json").exists()
    if wanted.as_json:
        numbers = {"chunks": database.rows, "chunk_length": database.chunk_length, "sources": list(map(asdict, rows))}
        spread = _spread(config, corpus, database, wanted) if searched else None
        output.json(numbers | {"neighbors": None if spread is None else asdict(spread)})
        return
    terminal.show_sources(rows, database)
    if not searched:
        terminal.show_histogram(chunk_lengths(database))
        output.say("", styled(("No neighbors were searched yet: `retro neighbors` does.", "dim")))
        return
    spread = _spread(config, corpus, database, wanted)
    for histogram in spread.histograms:
        terminal.show_histogram(histogram)
    terminal.show_hubs(spread.hubs, spread.spread, spread.few, database)


def _spread(config: RunConfig, corpus: Corpus, database: ChunkDatabase, wanted: Options) -> Distributions:
    found = Neighbors.open(stage("neighbors").path(config), database, corpus)
    return distributions(database, found, SPLITS.index(wanted.split), _shown(config, found, wanted))


def _shown(config: RunConfig, found: Neighbors, wanted: Options) -> int:
    count = config.model.neighbors if wanted.neighbors is None else wanted.neighbors
    if not 1 <= count <= found.saved:
        raise ConfigError("--neighbors", count, f"needs a number from 1 to {found.saved}, as many as were saved")
    return count


def _looker(config: RunConfig, corpus: Corpus, database: ChunkDatabase, wanted: Options) -> SampleViewer:
    split = SPLITS.index(wanted.split)
    found = Neighbors.open(stage("neighbors").path(config), database, corpus)
    if config.model.sequence_length < database.chunk_length:
        need = f"needs at least {database.chunk_length} tokens, one chunk of the database"
        raise ConfigError("model.sequence_length", config.model.sequence_length, need)
    return SampleViewer(
        corpus=corpus, db=database, found=found, split=split, source=wanted.source,
        stream=TokenStream(corpus, wanted.source, split, database.chunk_length),
        shown=_shown(config, found, wanted), sample_chunks=config.model.sequence_length // database.chunk_length,
    )  # fmt: skip


def _show_stream(looker: SampleViewer, wanted: Options) -> None:
    if wanted.what == "neighbors":
        _require("neighbors", wanted.number, looker.stream.chunks)
        if wanted.as_json:
            output.json(asdict(looker.chunk(wanted.number)))
            return
        terminal.show_chunk(looker.chunk(wanted.number), looker.name)
        terminal.legend()
        return
    _require("sample", wanted.number, looker.samples)
    if wanted.html is None:
        if wanted.as_json:
            output.json(asdict(looker.sample(wanted.number)))
            return
        for chunk in looker.sample(wanted.number).chunks:
            terminal.show_chunk(chunk, looker.name)
        terminal.legend()
        return
    if wanted.samples < 1:
        raise ConfigError("--samples", wanted.samples, "needs a positive number")
    numbers = np.arange(wanted.number, min(wanted.number + wanted.samples, looker.samples)).tolist()
    spread = distributions(looker.db, looker.found, looker.split, looker.shown)
    try:
        write_samples(looker, numbers, spread, wanted.html)
    except OSError as error:
        raise ConfigError("--html", str(wanted.html), f"cannot be written ({error.strerror or error})") from None
    output.say(f"page: {wanted.html}")
