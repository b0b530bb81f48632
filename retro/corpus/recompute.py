"""The blocks of a finished corpus, to be made once more from its input and compared with what stands there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retro.common.artifacts import REPORT
from retro.common.block_work import BlockWork
from retro.common.blocks import Arrays
from retro.common.files import read_json
from retro.corpus.blocks import TokenWork
from retro.corpus.config import CorpusConfig, SourceConfig
from retro.corpus.extents import SourceRows
from retro.corpus.files import Source, resolve
from retro.corpus.hub import local_path_if_there
from retro.corpus.inputs import require_unchanged
from retro.corpus.places import BLOCKS, TOKENIZER, built_in_text, record_path
from retro.corpus.survey import Survey, SurveyWork
from retro.tokenizers.tokenizer import load_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CorpusWork(BlockWork):
    """The blocks of a corpus, whose rows stand in token files and lines, not in HDF5 datasets."""

    rows: Callable[[int], Arrays]

    def stored(self, number: int) -> Arrays:
        """The rows of block `number` as the finished corpus holds them now."""
        return self.rows(number)


def open_work(config: CorpusConfig, out: Path) -> BlockWork:
    """The blocks of the corpus in `out` whose input is still there.

    Raises:
        ArtifactError: Its input has changed, or its report does not tell what its blocks were.
        DataError: The input cannot be read.
    """
    sources = [source for source in (_find(one, out) for one in config.sources) if source is not None]
    known = read_json(out / REPORT, "Run `retro corpus` with --redo").get("blocks", {})
    config = config.model_copy(update={"block_bytes": known.get("block_bytes", config.block_bytes)})
    surveys = _survey(sources, config.block_bytes)
    for source, survey in zip(sources, surveys, strict=True):
        record = record_path(out, source.name)
        require_unchanged(record, source.name, read_json(record, "Run `retro corpus` again")["inputs"], survey.identity)
    work = TokenWork(config, sources, surveys, load_tokenizer(out / TOKENIZER), out / BLOCKS / "tokens")
    places = [(source, block) for source in range(len(sources)) for block in range(len(work.of_source(source)))]
    rows = {source: SourceRows.read(out, sources[source].name) for source in {source for source, _ in places}}

    def name(number: int) -> str:
        source, block = places[number]
        return f"number {block} of {sources[source].name}"

    return CorpusWork(
        directory=out,
        store=work.store,
        sizes=work.sizes,
        unit="bytes",
        make=work.make,
        places=lambda number: [],
        names=name,
        rows=lambda number: rows[places[number][0]].arrays(places[number][1]),
    )


def _find(source: SourceConfig, out: Path) -> Source | None:
    given = source.path or built_in_text(out, source.name)
    path = local_path_if_there(given)
    if path is not None:
        return resolve(source, path)
    log.warning("corpus: %s is gone, so its blocks cannot be made once more", given)
    return None


def _survey(sources: list[Source], block_bytes: int) -> list[Survey]:
    survey = SurveyWork(sources, block_bytes, Path(BLOCKS))
    return survey.collect({}, lambda number: survey.make(number, lambda count: None))
