"""`retro quickstart`: what retrieval is worth, shown on the documentation that is on this machine.

<out>/documents.jsonl, questions.json      from the source of installed packages; nothing is downloaded
<out>/answers, versions, learning, update  the four acts, each with a run of its own; see their modules
<out>/index.html, results.json             what came of them
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from shlex import quote
from typing import Any, Protocol

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import make_writable, read_json, write_json
from retro.common.terminal import Table, output
from retro.quickstart import answers, learning, update, versions
from retro.quickstart.acts import Options, page
from retro.quickstart.documents import DOCUMENTS
from retro.quickstart.update import CONFIG, UPDATE
from retro.report.render import write_page
from retro.run.documents import model_settings

log = logging.getLogger(__name__)

RESULTS, PAGE = "results.json", "index.html"


class Act(Protocol):
    """What a module of an act has beside the sections that it adds to the page."""

    def run(self, options: Options) -> dict[str, Any]:
        """Make what is missing, and give what came of it."""

    def report(self, results: Mapping[str, Any]) -> tuple[Table | None, list[str]]:
        """What came of it, for the terminal."""


MODULES: dict[str, Act] = {"answers": answers, "versions": versions, "learning": learning, "update": update}
"""In the order of the page."""


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
        if name not in MODULES:
            raise ConfigError("ACT", name, f"needs to be of {', '.join(MODULES)}")
    make_writable(options.out, "--out", options.out)
    results = _begun(options)
    # The model before anything else: it takes long to make documents, and short to see that it cannot be had.
    model_settings(options.model)
    for name, act in MODULES.items():
        if name in options.acts:
            log.info("quickstart: %s", name)
            started = time.monotonic()
            found = act.run(options)
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
    found = {
        name: value for name, value in read_json(path, f"Remove {path}").items() if name in asked or name in MODULES
    }
    pairs = [(name, found.get(name), value) for name, value in asked.items()]
    for act in set(options.acts) & set(found):
        was = found[act]["asked"]
        pairs += [(name, was.get(name), value) for name, value in options.asked(act).items()]
    changed = [f"{name} was {was}, now {now}" for name, was, now in pairs if was != now]
    if changed:
        raise ArtifactError(options.out, f"holds another quickstart ({'; '.join(changed)})", "Give another --out")
    return found


def _write(options: Options, results: dict[str, Any]) -> None:
    write_json(options.out / RESULTS, results)
    sections = answers.sections(results, answers.outcomes(options)) if "answers" in results else []
    others = (("versions", versions), ("learning", learning), ("update", update))
    for name, act in others:
        sections += act.sections(results) if name in results else []
    write_page(options.out / PAGE, page(results, sections))


_QUESTION = "What is the default value of the parameter max_iter of sklearn.linear_model.LogisticRegressionCV?"
"""One that the documents of the default packages answer."""


def show_quickstart(options: Options, *, as_json: bool) -> None:
    """Run it and print what came of it.

    Args:
        options: What is asked for.
        as_json: Print the numbers for machines.
    """
    results, out = run(options), options.out
    if as_json:
        output.json(results)
        return
    for name, act in MODULES.items():
        if name in options.acts:
            table, lines = act.report(results)
            if table is not None:
                output.table(table)
            output.say(*lines, "")
    output.say(f"page: {out / PAGE}", "", "Try next:")
    output.say('  retro ask --documents my_folder "a question about your own files"')
    if (out / DOCUMENTS).exists():
        output.say(f'  retro ask --documents {quote(str(out / DOCUMENTS))} "{_QUESTION}"')
    if "update" in results:
        output.say(f"  retro serve {quote(str(out / UPDATE / CONFIG))}")
