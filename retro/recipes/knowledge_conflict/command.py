"""`retro recipe knowledge_conflict compare RUN_A RUN_B [out=FOLDER]`: JSON, tables and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import ConfigError
from retro.common.files import write_plain_json
from retro.common.terminal import output
from retro.recipes.knowledge_conflict.compare import COMMAND, compare, open_side
from retro.recipes.knowledge_conflict.compare_page import page, tables
from retro.report.render import write_page

PAIRS, PAGE = "conflict_pairs.json", "conflict_pairs.html"


def run_compare(words: Sequence[str]) -> None:
    """The command.

    Args:
        words: Two runs, or their folders of scores; and `out=FOLDER`, where JSON and page go.

    Raises:
        ConfigError: There are not two, or another setting is given.
        ArtifactError: A run has no scores, or they are of other questions.
    """
    folders = [Path(word) for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    if len(folders) != 2:
        raise ConfigError(f"{COMMAND} compare", words, "needs two runs, RUN_A RUN_B, and out=FOLDER if you like")
    if settings.keys() - {"out"} or not settings.get("out", "."):
        raise ConfigError(f"{COMMAND} compare", settings, "needs no setting but out=FOLDER")
    a, b = map(open_side, folders)
    found = compare(a, b)
    out = Path(settings["out"]) if "out" in settings else b.directory
    write_plain_json(out / PAIRS, found)
    write_page(out / PAGE, page(found, a, b))
    output.table(*tables(found))
    output.say(f"{out / PAIRS}\n{out / PAGE}")
