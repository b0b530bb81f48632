"""Commands of the recipe.

retro recipe dense_retriever compare RUN_A [RUN_B]     two retrievers of one run, or one of each of two runs
retro recipe dense_retriever beir FOLDER out=FILE      the questions of a BEIR folder as pairs to train on
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.files import write_plain_json
from retro.common.terminal import output
from retro.recipes.dense_retriever.evaluation.compare import COMMAND, compare, open_side
from retro.recipes.dense_retriever.evaluation.config import TUNED

PAIRS, PAGE = "retriever_pairs.json", "retriever_pairs.html"


def _read(command: str, words: Sequence[str], known: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders and settings of a command line.

    Raises:
        ConfigError: A setting is unknown, or has no value.
    """
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{COMMAND} {command}", name, unknown_name(name, known))
        if not value:
            raise ConfigError(f"{COMMAND} {command}", f"{name}=", "needs something behind the =")
    return [Path(word) for word in words if "=" not in word], settings


def run_compare(words: Sequence[str]) -> None:
    """The command.

    Args:
        words: One run or two, or their folders of scores; and `a=NAME`, `b=NAME` (retrievers; the tuned one unless
            given), `set=NAME` (one set of questions; absent: all that both have), `out=FOLDER` (of JSON and page).

    Raises:
        ConfigError: There are not one or two, or a setting is unknown.
        ArtifactError: A run has no scores, or they are of other questions or passages.
    """
    from retro.recipes.dense_retriever.evaluation.page import compare_page, compare_tables
    from retro.report.render import write_page

    folders, settings = _read("compare", words, ("a", "b", "set", "out"))
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


def run_beir(words: Sequence[str]) -> None:
    """The command: each relevant document of a question makes a pair, in the form that `data.sources` reads.

    Args:
        words: A folder in BEIR's form; and `out=FILE` (.jsonl), `split=train` (or dev, or test).

    Raises:
        ConfigError: There is not one folder, no file to write, or a setting is unknown.
        DataError: The folder is not in BEIR's form.
    """
    from retro.recipes.dense_retriever.evaluation.beir import Split, pairs_of
    from retro.recipes.dense_retriever.pairs import write_pairs

    folders, settings = _read("beir", words, ("out", "split"))
    if len(folders) != 1 or "out" not in settings:
        need = "needs one folder in BEIR's form, and out=FILE.jsonl for the pairs"
        raise ConfigError(f"{COMMAND} beir", list(words), need)
    splits: dict[str, Split] = {"train": "train", "dev": "dev", "test": "test"}
    split = settings.get("split", "train")
    if split not in splits:
        raise ConfigError(f"{COMMAND} beir", f"split={split}", f"needs one of {', '.join(splits)}")
    out = Path(settings["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as store:
        write_pairs(out, pairs_of(folders[0], splits[split], Path(store)))
    output.say(str(out))
