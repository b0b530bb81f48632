"""Which block of a damaged file is damaged, and recomputing just that one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from retro.common.block_stage import BLOCKS_FILE, BlockWork
from retro.common.errors import ArtifactError
from retro.common.files import fsync, read_json, sha256_file, temporary_path
from retro.common.hdf5 import UNREADABLE
from retro.run.config import RunConfig
from retro.run.pipeline import database_dirs, stage

log = logging.getLogger(__name__)


def damaged_blocks(work: BlockWork, file: str) -> list[int]:
    """Numbers of the blocks whose rows in `file` are not what was joined; empty where that is not known.

    It cannot where the file does not open any more, or where its blocks had another size then.
    """
    recorded = _recorded(work)
    if len(recorded) != len(work.store):
        return []
    found = []
    for number in range(len(work.store)):
        if any(place.file == file for place in work.places(number)):
            try:
                right = work.checksum(number) == recorded[number]
            except ArtifactError:
                return []
            found += [] if right else [number]
    return found


def repair(work: BlockWork, damaged: Sequence[int], file: str, sha256: str) -> bool:
    """Make blocks again and put their rows back; the file is replaced only by one that has the right SHA-256.

    Returns:
        Whether it has that now.
    """
    path = work.directory / file
    copy = temporary_path(path)
    try:
        shutil.copyfile(path, copy)
        for number in damaged:
            work.repair(number, work.make(number, lambda _: None), {file: copy})
        if sha256_file(copy) != sha256:
            return False
        fsync(copy)
        copy.replace(path)
        fsync(path.parent)
    except UNREADABLE as error:
        log.warning("%s cannot be repaired (%s)", path, " ".join(str(error).split()))
        return False
    finally:
        copy.unlink(missing_ok=True)
    return True


def name_blocks(work: BlockWork, damaged: Sequence[int]) -> str:
    """Blocks for people: `block 3 (rows 30000 to 39999)`."""
    shown = "; ".join(f"{number} ({work.names(number)})" for number in damaged[:3])
    more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
    return f"block {shown}{more}"


def _recorded(work: BlockWork) -> list[str]:
    path = work.directory / BLOCKS_FILE
    try:
        recorded: dict[str, list[str]] = read_json(path, "Which block is which is not known", dict[str, list[str]])
    except ArtifactError as error:
        log.warning("%s", error)
        return []
    return recorded.get(work.store.directory.name, [])


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
"""By stage, those whose damaged blocks can be named and repaired; each raises what its stage raises for parents that
cannot be used."""
RECOMPUTED: dict[str, Callable[[RunConfig], BlockWork]] = {"corpus": _corpus} | WORKS
"""By stage, those whose blocks can be made once more; the corpus reads its whole input for that."""
