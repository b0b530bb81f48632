"""Text that the model has half seen: the documentation of a package's newer version, beside that of an older one.

<out>/versions/older.jsonl, newer.jsonl    docstrings; of the newer version only those that changed or are new
<out>/versions/                            a run: the older version is its database, the newer its test split

What is measured is the reuse of near-duplicates, as documentation, code and law have them. How much of the newer text
is in the older is stated beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, read_json
from retro.common.terminal import Table
from retro.pretrain.chunk_losses import IN_CONTEXT_FILE
from retro.quickstart.acts import OLDER, Options, Section, perplexity_text
from retro.quickstart.docstrings import installed_package, write_docstrings
from retro.report.tables import new_table
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import BY_WORDS, build, model_settings
from retro.run.pipeline import measure_checkpoint, measure_leakage

CONDITIONS = ("none", "shuffled", "found")
VERSIONS = "versions"
_LABELS = {
    "none": "nothing before the text",
    "shuffled": "a passage that was found for another function",
    "found": "what the search found in the older version",
}
_MIN_WORDS = 60


def run(options: Options) -> dict[str, Any]:
    """Measure the perplexity of the newer version given nothing, another function's old text, what the search finds.

    Returns:
        Rows of perplexities by condition, paired differences, the leakage in a sentence, counts of docstrings. Where
        there is no older version: why it was left out.

    Raises:
        DataError: The package is not installed, or nothing in it changed.
    """
    older = options.older.resolve()
    if options.older == OLDER and not older.is_dir():
        return {"left_out": f"there is no earlier version in {older} (docs/install.md); --older FOLDER names another"}
    if not older.is_dir():
        need = "needs the folder of an earlier version of an installed package, as pip install --target OLD makes it"
        raise ConfigError("--older", str(options.older), need)
    folder = options.out / VERSIONS
    counts = _write(older, folder)
    config = versions_run(options, folder)
    build(config, ("corpus", "db", "index", "neighbors"))
    leakage = measure_leakage(config)
    measured = read_json(measure_checkpoint(config, Path(options.model)) / IN_CONTEXT_FILE, f"Remove {folder}")
    return {
        "package": older.name,
        "documents": counts,
        "rows": sorted(measured["rows"], key=lambda row: CONDITIONS.index(row["passages"])),
        "differences": measured["differences"],
        "leakage": leakage["sentences"][0],
    }


def versions_run(options: Options, folder: Path) -> RunConfig:
    """The run over both versions."""
    sources = [
        {"name": "older", "path": folder / "older.jsonl", "split": "train"},
        {"name": "newer", "path": folder / "newer.jsonl", "split": "test"},
    ]
    in_context = {
        "conditions": CONDITIONS,
        "length": 256,
        "search": "live",
        "text": "documents",
        "targets": options.targets,
    }
    return run_config_of(
        {
            **BY_WORDS,
            "run_dir": folder,
            "corpus": {
                "sources": sources,
                "split": [1, 0, 0],
                "tokenizer": model_settings(options.model)["tokenizer"],
            },
            # Without passages the whole text is not read: one sequence, for the stage has no setting for none.
            "perplexity": {"split": "test", "seed": options.seed, "samples": 1, "in_context": in_context},
        }
    )


def _write(older: Path, folder: Path) -> dict[str, int]:
    """Write both versions' docstrings, those of the newer that stand in the older word for word left out."""
    folder.mkdir(parents=True, exist_ok=True)
    write_docstrings(folder / "older.jsonl", [older], min_words=_MIN_WORDS)
    write_docstrings(folder / "all.jsonl", [installed_package(older.name)], min_words=_MIN_WORDS)
    old = {one["title"]: one["text"] for one in _lines(folder / "older.jsonl")}
    new = _lines(folder / "all.jsonl")
    kept = [one for one in new if old.get(one["title"]) != one["text"]]
    if not kept:
        raise DataError(older, "has the docstrings of the installed version", "Give the folder of an earlier version")
    with atomic_path(folder / "newer.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")
    changed = sum(one["title"] in old for one in kept)
    return {"older": len(old), "same": len(new) - len(kept), "changed": changed, "new": len(kept) - changed}


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _table(results: Mapping[str, Any]) -> Table:
    act = results["versions"]
    title = f"The newer documentation of {act['package']}, predicted by {results['model']}"
    made = new_table(title, "given", right=("perplexity",))
    for row in act["rows"]:
        made.add_row(_LABELS[row["passages"]], perplexity_text(row))
    return made


def _sentences(act: Mapping[str, Any]) -> list[str]:
    return [
        f"found against {one['minus']}: {one['mean']:+.2f} nats a token ({one['low']:+.2f} to {one['high']:+.2f}), "
        f"p = {one['p_value']:.2g} (sign flips, paired by document)"
        for one in act["differences"]
    ]


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The act on the page."""
    act = results["versions"]
    title = "2. Text that it has half seen"
    if "left_out" in act:
        return [Section(title=title, note=f"Left out: {act['left_out']}.")]
    counts = act["documents"]
    places = act["rows"][0]
    what = (
        f"The documentation of {act['package']}, installed, beside an earlier version: {counts['changed']:,} "
        f"docstrings that changed and {counts['new']:,} new ones; {counts['same']:,} that did not change are left "
        f"out. {results['model']} predicts {places['tokens']:,} tokens in {places['documents']} of them, with one "
        "passage in the prompt before the text, searched with the 64 tokens before (BM25). This is reuse of "
        f"near-duplicates, the everyday case of documentation, code and law, and this much is shared: {act['leakage']}"
    )
    return [Section(title=title, note=what, table=_table(results), below="; ".join(_sentences(act)) + ".")]


def report(results: Mapping[str, Any]) -> tuple[Table | None, list[str]]:
    """The act at the terminal: a table, the differences, and how much of the text both versions share."""
    act = results["versions"]
    if "left_out" in act:
        return None, [f"Text of two versions: left out, {act['left_out']}"]
    return _table(results), [*_sentences(act), act["leakage"]]
