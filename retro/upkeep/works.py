"""The blocks of a run's finished stages, opened to be made once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retro.common.block_work import BlockWork
from retro.pipeline import database_dirs, stage
from retro.run_config import RunConfig


def _paths(config: RunConfig, *names: str) -> list[Path]:
    return [stage(name).path(config) for name in names]


def _corpus(config: RunConfig) -> BlockWork:
    from retro.corpus import block_offsets

    return block_offsets.open_work(config.corpus, *_paths(config, "corpus"))


def _db(config: RunConfig) -> BlockWork:
    from retro.db import build

    corpus, db = _paths(config, "corpus", "db")
    return build.open_work(config.db, corpus, db)


def _index(config: RunConfig) -> BlockWork:
    from retro.index import build

    corpus, db, index = _paths(config, "corpus", "db", "index")
    return build.open_work(config.index, corpus, db, index)


def _neighbors(config: RunConfig) -> BlockWork:
    from retro.neighbors import build

    corpus, neighbors = _paths(config, "corpus", "neighbors")
    return build.open_work(config.neighbors, corpus, *database_dirs(config), neighbors)


WORKS: dict[str, Callable[[RunConfig], BlockWork]] = {"db": _db, "index": _index, "neighbors": _neighbors}
"""By stage, those whose damaged blocks can be named and mended; each raises what its stage raises for parents that
cannot be used."""
RECOMPUTED: dict[str, Callable[[RunConfig], BlockWork]] = {"corpus": _corpus} | WORKS
"""By stage, those whose blocks can be made once more; the corpus reads its whole input for that."""
