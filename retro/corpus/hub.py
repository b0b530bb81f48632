"""Sources on the HuggingFace Hub: `hf://datasets/ORG/NAME[@REVISION]/PATH`, as HuggingFace's own tools write them.

The files are fetched into the Hub client's cache and read from there like any others, block by block. `@~parquet` is
the copy in Parquet that the Hub makes of every public dataset.
"""

from __future__ import annotations

import glob
import logging
import re
from pathlib import Path
from typing import NamedTuple

from retro.common import cache
from retro.common.errors import DataError
from retro.common.input_files import is_below

log = logging.getLogger(__name__)

_PREFIX = "hf:/"
# A path has lost the second slash.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")
_PLACE = re.compile(r"hf:/+datasets/([\w.-]+/[\w.-]+)(?:@(refs/[\w.-]+/[\w.-]+|[\w.~%-]+))?/(.+)")
_REVISIONS = {"~parquet": "refs/convert/parquet"}


class _Place(NamedTuple):
    dataset: str
    revision: str
    path: str


def local_path(path: Path) -> Path:
    """Where the files of a source are on this machine; what of them is on the Hub is fetched first.

    Raises:
        DataError: The Hub does not give them, or the name is none of a part of a dataset. Or it is an address of
            another kind.
        DependencyError: huggingface_hub is missing.
    """
    if _on_hub(path):
        return _fetched(path, cached=False)
    if _ADDRESS.match(str(path)) and not path.exists():
        problem = "is an address; sources are read from this machine, or from hf://datasets/ORG/NAME/PATH"
        raise DataError(_as_typed(path), problem, "Download it, and give the folder or file")
    return path.expanduser()


def local_path_if_there(path: Path) -> Path | None:
    """The same without a look at the network; None where nothing is."""
    if _on_hub(path):
        try:
            return _fetched(path, cached=True)
        except DataError:
            return None
    path = path.expanduser()
    return path if path.exists() or path.with_name(path.name + ".bin").exists() else None


def _as_typed(path: Path) -> str:
    return str(path).replace(":/", "://", 1)


def _on_hub(path: Path) -> bool:
    return str(path).startswith(_PREFIX)


def _fetched(path: Path, *, cached: bool) -> Path:
    place, name = _place(path), _as_typed(path)
    snapshot = cache.fetch(
        place.dataset,
        [glob.escape(place.path), f"{glob.escape(place.path)}/*"],
        kind="dataset",
        extra="formats",
        name=name,
        remedy="Check the name and the network, or download the dataset elsewhere and give its folder",
        revision=place.revision,
        cached=cached,
    )
    found = snapshot / place.path
    if not found.exists():
        where = f"https://huggingface.co/datasets/{place.dataset}/tree/{place.revision}"
        raise DataError(name, f"the dataset has no {place.path!r}", f"{where} shows what it has")
    log.info("corpus: %s is at commit %s", name, snapshot.name)
    return found


def _place(path: Path) -> _Place:
    found = _PLACE.fullmatch(str(path))
    if found is None or not is_below(found[3]):
        need = "is not part of a dataset: needed is hf://datasets/ORG/NAME[@REVISION]/PATH"
        remedy = "Name one folder or file, so that no text is read twice from several versions of the dataset"
        raise DataError(_as_typed(path), need, remedy)
    revision = (found[2] or "main").replace("%2F", "/")
    return _Place(found[1], _REVISIONS.get(revision, revision), found[3].rstrip("/"))
