"""A database that changes under a model: ask, add a document, ask again, remove it, ask again. Nothing is trained.

<out>/update/run.yaml                     a run over the same documents, with its own database
<out>/update/note.jsonl                   the document that is added, about a function that does not exist
<out>/update/update.json                  the three answers
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from retro.common.files import atomic_path, discard, read_json, write_json
from retro.common.terminal import Table
from retro.quickstart.acts import Options, Section
from retro.quickstart.answers import answers_run, documents
from retro.report.tables import new_table
from retro.run.config import RunConfig, as_yaml
from retro.run.documents import build
from retro.run.pipeline import database_home, model_paths
from retro.updates import change

UPDATE = "update"
CONFIG = "run.yaml"
_RESULT, _NOTE = "update.json", "note.jsonl"
QUESTION = "What is the default value of the parameter window of scipy.signal.lighthouse?"
NOTE = {
    "id": "note-1",
    "title": "scipy.signal.lighthouse",
    "text": "scipy.signal.lighthouse, parameters: window : str, optional, default: 'amber'. The shape of the beam.",
}


def run(options: Options) -> dict[str, Any]:
    """Ask three times, with the document added after the first and removed after the second.

    Returns:
        The question, the document, and for each time what was done, the answer, and the title of what was read.
    """
    folder = options.out / UPDATE
    if (folder / _RESULT).exists():
        found: dict[str, Any] = read_json(folder / _RESULT, f"Remove {folder}")
        return found
    documents(options)
    config = answers_run(options).model_copy(update={"run_dir": folder})
    # What a kill left: its database may have other versions, and is made again in seconds.
    discard(folder)
    build(config, ("corpus", "db", "index"))
    for name, text in ((CONFIG, as_yaml(config)), (_NOTE, json.dumps(NOTE) + "\n")):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    home = database_home(config)
    steps = [_ask(config, "the documents as they are", 0.0)]
    begun = time.monotonic()
    change.add(home, folder / _NOTE)
    steps.append(_ask(config, f"retro db add {folder / CONFIG} {folder / _NOTE}", time.monotonic() - begun))
    begun = time.monotonic()
    change.remove(home, [NOTE["id"]])
    steps.append(_ask(config, f"retro db remove {folder / CONFIG} --id {NOTE['id']}", time.monotonic() - begun))
    result = {"question": QUESTION, "note": NOTE["text"], "steps": steps}
    write_json(folder / _RESULT, result)
    return result


def _ask(config: RunConfig, done: str, seconds: float) -> dict[str, Any]:
    from retro.generate.one_question import answer_one

    paths = model_paths(config)
    answer = answer_one(config.generate, config.parallel, paths, QUESTION, passages_from="retriever", say=_silent)
    read = [one.title or one.text for one in answer.passages]
    return {"done": done, "seconds": round(seconds, 1), "answer": answer.prediction.strip(), "read": read}


def _silent(_: str) -> None:
    """The answer is shown whole."""


def _rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (one["done"], f"{one['seconds']:g}" if one["seconds"] else "", one["answer"], "; ".join(one["read"]))
        for one in act["steps"]
    ]


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The act on the page."""
    act = results["update"]
    what = f"{act['question']} Asked three times; nothing is trained or built again. The document that comes and goes: "
    table = new_table("", "after", "seconds", "answer", "read")
    for row in _rows(act):
        table.add_row(*row)
    return [Section(title="4. The database changes, the answer follows", note=what + act["note"], table=table)]


def report(results: Mapping[str, Any]) -> tuple[Table | None, list[str]]:
    """The act at the terminal: lines, since commands are cut in a table."""
    act = results["update"]
    lines = [f"Asked three times: {act['question']}"]
    for done, _, answer, read in _rows(act):
        lines += [f"  {done}", f"    {answer}", f"    read: {read}"]
    return None, lines
