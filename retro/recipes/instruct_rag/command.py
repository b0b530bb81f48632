"""Tables of the recipe: the tuned models that are known, and the results of several runs side by side.

python -m retro.recipes.instruct_rag checkpoints [MORE.yaml]
python -m retro.recipes.instruct_rag table RUN_DIR ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.recipes import flags

PROGRAM = "python -m retro.recipes.instruct_rag"


def main(words: Sequence[str]) -> int:
    """`checkpoints` or `table`; see `retro.recipes.flags.main`."""
    return flags.main(run, words)


def run(words: Sequence[str]) -> str:
    """A table, in Markdown.

    Raises:
        RetroError: There is no such command, or a file is missing or broken.
    """
    name = flags.command_of(PROGRAM, words, ["checkpoints", "table"])
    if name == "checkpoints":
        return _checkpoints([Path(word) for word in words[1:]])
    if not words[1:]:
        raise ConfigError("RUN_DIR", None, "needs at least one run directory whose step `scores` has finished")
    return _results([Path(word) for word in words[1:]])


def _checkpoints(files: Sequence[Path]) -> str:
    from retro.recipes.instruct_rag.sets import checkpoint_table

    if len(files) > 1:
        raise ConfigError("FILE", [str(one) for one in files], "needs one file that is laid over the table, or none")
    rows = [
        (one, retriever, folder, "here" if Path(folder).is_dir() else f"hf download {folder} --local-dir FOLDER")
        for one, retriever, folder in checkpoint_table(files[0] if files else None)
    ]
    return _markdown(("set", "retriever", "model", ""), rows)


def _results(runs: Sequence[Path]) -> str:
    from retro.common.files import read_json
    from retro.recipes.comparison import interval

    rows = []
    for one in runs:
        home = one / "recipe_instruct_rag"
        remedy = "Run `retro recipe instruct_rag run CONFIG` to its end first"
        table: Any = read_json(home / "scores" / "modes.json", remedy)
        for mode, means in table["modes"].items():
            published = table["published_percent"].get(mode)
            shown = "" if published is None else f"{published:.1f}"
            rows.append((table["set"], mode, table["metric"], interval(means[table["metric"]]), shown))
    return _markdown(("set", "mode", "metric", "score", "published"), rows)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
