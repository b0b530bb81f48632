"""Which block of a damaged file is damaged, and making just that one again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from retro.common.block_work import BLOCKS_FILE, BlockWork
from retro.common.errors import ArtifactError
from retro.common.files import fsync, read_json, sha256_file, temporary_path
from retro.common.hdf5 import UNREADABLE

log = logging.getLogger(__name__)


def damaged_blocks(work: BlockWork, file: str) -> list[int]:
    """Numbers of the blocks whose rows in `file` are not what was joined; empty where that cannot be told.

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


def mend(work: BlockWork, damaged: Sequence[int], file: str, sha256: str) -> bool:
    """Make blocks again and put their rows back; the file is replaced only by one that has the right SHA-256.

    Returns:
        Whether it has that now.
    """
    path = work.directory / file
    copy = temporary_path(path)
    try:
        shutil.copyfile(path, copy)
        for number in damaged:
            work.mend(number, work.make(number, lambda _: None), {file: copy})
        if sha256_file(copy) != sha256:
            return False
        fsync(copy)
        copy.replace(path)
        fsync(path.parent)
    except UNREADABLE as error:
        log.warning("%s cannot be mended (%s)", path, " ".join(str(error).split()))
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
