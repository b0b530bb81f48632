"""Text that the model has half seen: the documentation of a package's newer version, beside that of an older one.

<out>/versions/older.jsonl, newer.jsonl    docstrings; of the newer version only those that changed or are new
<out>/versions/                            a run: the older version is its database, the newer its test split

What is measured is the reuse of near-duplicates, as documentation, code and law have them. How much of the newer text
stands in the older is stated beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, read_json
from retro.corpus.docstrings import installed_package, write_docstrings
from retro.documents import BY_WORDS, build, model_settings
from retro.pipeline import measure_checkpoint, measure_leakage
from retro.pretrain.reader import IN_CONTEXT_FILE
from retro.quickstart.options import Options
from retro.run_config import RunConfig, run_config_of

CONDITIONS = ("none", "shuffled", "found")
VERSIONS = "versions"
_MIN_WORDS = 60


def run(options: Options) -> dict[str, Any]:
    """Measure the perplexity of the newer version given nothing, another function's old text, what the search finds.

    Returns:
        Rows of perplexities by condition, paired differences, the leakage in a sentence, counts of docstrings. Where
        there is no older version: why it was left out.

    Raises:
        DataError: The package is not installed, or nothing in it changed.
    """
    if options.older is None:
        return {"left_out": "no older version of an installed package was given: --older FOLDER"}
    older = options.older.resolve()
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
    old = {one["title"]: fingerprint(one["text"]) for one in _lines(folder / "older.jsonl")}
    new = _lines(folder / "all.jsonl")
    kept = [one for one in new if old.get(one["title"]) != fingerprint(one["text"])]
    if not kept:
        raise DataError(older, "has the docstrings of the installed version", "Give the folder of an earlier version")
    with atomic_path(folder / "newer.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")
    changed = sum(one["title"] in old for one in kept)
    return {"older": len(old), "same": len(new) - len(kept), "changed": changed, "new": len(kept) - changed}


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
