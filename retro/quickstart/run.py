"""`retro quickstart`: what retrieval is worth, shown on the documentation that lies on this machine.

<out>/documents.jsonl, questions.json      from the source of installed packages; nothing is downloaded
<out>/answers, versions, learning, update  the four acts, each with a run of its own; see their modules
<out>/index.html, results.json             what came of them
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from retro.common.errors import ConfigError
from retro.common.files import atomic_path, read_json, write_json
from retro.quickstart import answers, learning, update, versions
from retro.quickstart.options import ACTS, Options
from retro.quickstart.page import page

log = logging.getLogger(__name__)

RESULTS, PAGE = "results.json", "index.html"
_RUN: dict[str, Callable[[Options], dict[str, Any]]] = {
    "answers": answers.run,
    "versions": versions.run,
    "learning": learning.run,
    "update": update.run,
}


def run(options: Options) -> dict[str, Any]:
    """Run the acts, or what of them is missing, and write the page after each.

    Returns:
        What `results.json` has: the results of each act by its name, those of earlier calls too.

    Raises:
        ConfigError: There is no such act, or `out` is a file.
        DataError: A package is not installed, or the model cannot be used.
        DependencyError: The model's package is missing.
        ArtifactError: `out` holds another quickstart, or the disk is full.
    """
    for name in options.acts:
        if name not in ACTS:
            raise ConfigError("ACT", name, f"needs to be of {', '.join(ACTS)}")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError("--out", str(options.out), "needs a folder, or a path where nothing is yet")
    results = _begun(options)
    for name in ACTS:
        if name in options.acts:
            log.info("quickstart: %s", name)
            started = time.monotonic()
            found = _RUN[name](options)
            results[name] = found | {"seconds_now": round(time.monotonic() - started, 1)}
            _write(options, results)
    return results


def _begun(options: Options) -> dict[str, Any]:
    """The results of earlier calls about the same model, packages and seed."""
    asked = {"model": options.model, "seed": options.seed, "packages": list(options.packages)}
    path = options.out / RESULTS
    if path.exists():
        found = read_json(path, f"Remove {path}")
        if {name: found.get(name) for name in asked} == asked:
            return {name: value for name, value in found.items() if name in asked or name in ACTS}
    return asked


def _write(options: Options, results: dict[str, Any]) -> None:
    write_json(options.out / RESULTS, results)
    outcomes = answers.outcomes(options) if "answers" in results else []
    with atomic_path(options.out / PAGE) as temporary:
        temporary.write_text(page(results, outcomes), encoding="utf-8")
