"""The frame of a stage that works in blocks: what to do when it finds itself finished, or finds what a kill left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.common.artifacts import (
    MANIFEST,
    REPORT,
    Compared,
    Manifest,
    is_complete,
    read_manifest,
    require_parent,
    require_same_config,
)
from retro.common.leases import remove_leases

log = logging.getLogger(__name__)


def completed(
    out: Path,
    stage: str,
    settings: Mapping[str, Any],
    parents: Mapping[str, Manifest],
    *,
    compared: Compared = dict,
) -> Manifest | None:
    """The manifest in `out` if the stage has finished there with these settings and parents, else None.

    Args:
        out: The stage's directory.
        stage: Its name.
        settings: What it was asked for.
        parents: What it reads.
        compared: Which of the settings matter for whether the work is the same; all, unless given.

    Raises:
        ArtifactError: It finished with other settings or from other parents.
    """
    if not is_complete(out):
        return None
    manifest = read_manifest(out, stage)
    for name, parent in parents.items():
        require_parent(out, manifest, name, parent)
    require_same_config(out, manifest, settings, compared=compared)
    log.info("%s: already complete in %s", stage, out)
    return manifest


def fingerprints(parents: Mapping[str, Manifest]) -> dict[str, str]:
    """The parents as a manifest records them."""
    return {name: parent.fingerprint for name, parent in parents.items()}


def remove_temporary_files(out: Path) -> None:
    """Delete what a kill left half-written at the top of `out`.

    Only for the one worker that joins the blocks, once all are done.
    """
    for path in sorted(out.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def remove_unlisted_files(out: Path, manifest: Manifest) -> None:
    """Delete what the artifact in `out` does not own: a kill came before it was removed."""
    remove_leases(out)
    owned = set(manifest.files) | {MANIFEST, REPORT}
    for path in sorted(out.iterdir()):
        if path.is_file() and path.suffix in {".h5", ".tmp"} and path.name not in owned:
            path.unlink(missing_ok=True)
