"""`retro recipe dense_retriever compare RUN_A [RUN_B]`: two retrievers of one run, or one of each of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.files import write_plain_json
from retro.common.terminal import output
from retro.recipes.dense_retriever.compare import COMMAND, compare, open_side
from retro.recipes.dense_retriever.evaluate_config import TUNED

PAIRS, PAGE = "retriever_pairs.json", "retriever_pairs.html"
_SETTINGS = ("a", "b", "set", "out")


def run_compare(words: Sequence[str]) -> None:
    """The command.

    Args:
        words: One run or two, or their folders of scores; and `a=NAME`, `b=NAME` (retrievers; the tuned one unless
            given), `set=NAME` (one set of questions; absent: all that both have), `out=FOLDER` (of JSON and page).

    Raises:
        ConfigError: There are not one or two, or a setting is unknown.
        ArtifactError: A run has no scores, or they are of other questions or passages.
    """
    from retro.recipes.dense_retriever.page import compare_page, compare_tables
    from retro.report.render import write_page

    folders = [Path(word) for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise ConfigError(f"{COMMAND} compare", name, unknown_name(name, _SETTINGS))
        if not value:
            raise ConfigError(f"{COMMAND} compare", f"{name}=", "needs something behind the =")
    if len(folders) not in (1, 2):
        need = "needs RUN_A RUN_B, or one run with two of its retrievers: RUN a=minilm b=tuned"
        raise ConfigError(f"{COMMAND} compare", list(words), need)
    a = open_side(folders[0], settings.get("a", TUNED))
    b = open_side(folders[-1], settings.get("b", TUNED))
    found = compare(a, b, settings.get("set", ""))
    out = Path(settings["out"]) if "out" in settings else b.directory
    write_plain_json(out / PAIRS, found)
    write_page(out / PAGE, compare_page(found, a, b))
    output.table(*compare_tables(found))
    output.say(f"{out / PAIRS}\n{out / PAGE}")
