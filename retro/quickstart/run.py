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

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import atomic_path, make_writable, read_json, write_json
from retro.documents import model_settings
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
    make_writable(options.out, "--out", options.out)
    results = _begun(options)
    # The model before anything else: it takes long to make documents, and short to see that it cannot be had.
    model_settings(options.model)
    for name in ACTS:
        if name in options.acts and not (name == "versions" and options.older is None and name in results):
            log.info("quickstart: %s", name)
            started = time.monotonic()
            found = _RUN[name](options)
            results[name] = found | {
                "asked": options.asked(name),
                "seconds_now": round(time.monotonic() - started, 1),
            }
            _write(options, results)
    return results


def _begun(options: Options) -> dict[str, Any]:
    """The results of earlier calls; they must have been about the same."""
    path = options.out / RESULTS
    asked = options.asked("")
    if not path.exists():
        return asked
    found = {name: value for name, value in read_json(path, f"Remove {path}").items() if name in asked or name in ACTS}
    pairs = [(name, found.get(name), value) for name, value in asked.items()]
    for act in set(options.acts) & set(found):
        # Without an older version there is nothing to measure, and what was measured stays.
        if act != "versions" or ("left_out" not in found[act] and options.older is not None):
            was = found[act]["asked"]
            pairs += [(name, was.get(name), value) for name, value in options.asked(act).items()]
    changed = [f"{name} was {was}, now {now}" for name, was, now in pairs if was != now]
    if changed:
        raise ArtifactError(options.out, f"holds another quickstart ({'; '.join(changed)})", "Give another --out")
    return found


def _write(options: Options, results: dict[str, Any]) -> None:
    write_json(options.out / RESULTS, results)
    outcomes = answers.outcomes(options) if "answers" in results else []
    with atomic_path(options.out / PAGE) as temporary:
        temporary.write_text(page(results, outcomes), encoding="utf-8")
