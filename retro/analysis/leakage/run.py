"""`retro leakage`: overlaps, then what they mean for the models of the run.

    leakage/leakage.json              everything that was measured
    leakage/leakage.svg, leakage.png  bits per byte over alpha

The overlaps are an artifact that is made once (see `build`); the rest follows from it and from what perplexity kept,
and is written again each time, so that it is never of another training than the one that is there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from retro.analysis.leakage import build
from retro.analysis.leakage.build import open_inputs
from retro.analysis.leakage.config import LeakageConfig
from retro.analysis.leakage.measure import OverlapReader, measure
from retro.common.artifacts import is_complete
from retro.common.errors import ArtifactError
from retro.common.files import write_json
from retro.common.launcher import ALONE, Worker
from retro.pretrain.chunk_losses import Perplexities
from retro.report.leakage import draw

log = logging.getLogger(__name__)

RESULT_FILE = "leakage.json"
PICTURES = ("leakage.svg", "leakage.png")


class Directories(NamedTuple):
    """What is read."""

    corpus: Path
    db: Path
    neighbors: Path
    perplexity: Path


def run(
    config: LeakageConfig, split: str, neighbors_read: int, dirs: Directories, out: Path, *, worker: Worker = ALONE
) -> dict[str, Any]:
    """Measure the leakage of a split, and what every model of the run scores without it.

    Args:
        config: The settings.
        split: valid or test.
        neighbors_read: Neighbors that the models read.
        dirs: Finished stages; perplexity may be missing, then only overlaps are reported.
        out: Where everything goes.
        worker: This process's place; the first one writes the result.

    Returns:
        What leakage.json holds.

    Raises:
        ArtifactError: A stage is damaged, or they do not belong together.
        DataError: The split has not one whole chunk.
    """
    parents = open_inputs(dirs.corpus, dirs.db, dirs.neighbors)
    build.run(config, split, parents, out, worker=worker)
    perplexities = _perplexities(dirs.perplexity, split, parents)
    saved = parents.neighbors.saved
    result = measure(
        config,
        OverlapReader.open(out),
        perplexities,
        parents.corpus.sources,
        chunk_length=parents.db.chunk_length,
        neighbors_read=min(neighbors_read, saved),
        neighbors_saved=saved,
    )
    if worker.rank == 0:
        write_json(out / RESULT_FILE, result)
        for name in PICTURES:
            (out / name).unlink(missing_ok=True)
            if result["measures"]["training"]["rows"]:
                draw(result, out / name)
    return result


def _perplexities(directory: Path, split: str, parents: build.Inputs) -> Perplexities | None:
    if not is_complete(directory):
        log.warning("%s is not there: overlaps are reported, but no model's perplexity", directory)
        return None
    found = Perplexities.open(directory, parents.manifests)
    if found.split != split:
        problem = f"was measured on the {found.split} split, asked for is {split}"
        raise ArtifactError(directory, problem, f"Set perplexity.split={found.split}, or measure again with --redo")
    return found
