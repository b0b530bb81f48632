"""The sets that are known and the models tuned on them: two tables, each with a user's file laid over it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from retro.common.config import StageConfig, unknown_name
from retro.common.errors import ConfigError, DataError
from retro.common.yaml_files import parse_yaml, read_yaml
from retro.qa.task import Task, load_task
from retro.recipes.prompt_files import laid_over


class Published(StageConfig):
    """What the paper says of a set."""

    questions: tuple[int, int] | None = None
    """Training and test questions."""
    recall: float | None = None
    """Percent of the test questions of which a shown document holds an answer."""
    accuracy: dict[str, float] = Field(default_factory=dict)
    """Percent right by mode, with Llama-3-8B-Instruct; `sft` is tuned on answers alone."""


class QaSet(StageConfig):
    """A set of questions."""

    title: str = ""
    """Its name in the published files."""
    task: str
    """How its files are read and its answers scored: a name of `retro tasks`, or a YAML file."""
    retriever: str = ""
    """What found its passages: contriever, dpr, gtr, bm25, or another name."""
    documents: PositiveInt = 5
    """Passages that a prompt shows."""
    metrics: tuple[str, ...] = ("match_norm", "exact_match", "f1")
    """What answers are scored by, the main metric first."""
    hint: str = ""
    """What a rationale has to take care of."""
    published: Published = Field(default=Published())
    """For comparison."""

    @property
    def loaded_task(self) -> Task:
        """The task, read."""
        return load_task(self.task)


def find_set(name: str, path: Path | None) -> QaSet:
    """A set by its name, or its title in any case.

    Raises:
        ConfigError: There is no such set, or what is said of it cannot be.
        DataError: The file is missing or broken.
    """
    table = _table("sets.yaml", path)
    titles = {str(one.get("title", key)).lower(): key for key, one in table.items()}
    name = titles.get(name.lower(), name)
    if name not in table:
        need = unknown_name(name, list(table)).replace("a setting", "a set")
        raise ConfigError("recipe.instruct_rag.set", name, need)
    try:
        return QaSet(**table[name])
    except (ConfigError, TypeError) as error:
        raise DataError(path or Path("sets.yaml"), f"{name}: {error}", "Its sets are as in sets.yaml") from None


def find_checkpoint(name: str, path: Path | None) -> Path:
    """The folder of a tuned model.

    Args:
        name: A folder, or a set's and a retriever's name as `popqa/contriever`.
        path: A file laid over the table.

    Raises:
        ConfigError: There is neither.
    """
    if Path(name).exists():
        return Path(name)
    table = _table("checkpoints.yaml", path)
    known = {f"{one}/{retriever}": str(folder) for one, some in table.items() for retriever, folder in some.items()}
    setting = "recipe.instruct_rag.checkpoint"
    if name not in known:
        raise ConfigError(setting, name, f"needs a folder, or one of {', '.join(known)}")
    folder = Path(known[name]) if path is None else _beside(path, known[name])
    if not folder.is_dir():
        need = (
            f"needs the model {known[name]} as a folder: fetch it with `hf download {known[name]} --local-dir FOLDER`"
        )
        raise ConfigError(setting, name, f"{need}, and name the folder here or in recipe.instruct_rag.checkpoints")
    return folder


def checkpoint_table(path: Path | None) -> list[tuple[str, str, str]]:
    """Set, retriever and folder of every model that is known."""
    table = _table("checkpoints.yaml", path)
    return [(one, retriever, str(folder)) for one, some in table.items() for retriever, folder in some.items()]


def _beside(path: Path, folder: str) -> Path:
    found = path.parent / folder
    return found if found.is_dir() else Path(folder)


def _table(name: str, path: Path | None) -> dict[str, Any]:
    text = resources.files("retro.recipes.instruct_rag").joinpath(name).read_text(encoding="utf-8")
    table = parse_yaml(text)
    if path is not None:
        table = laid_over(table, read_yaml(path))
    bad = [key for key, value in table.items() if not isinstance(value, dict)]
    if bad:
        raise DataError(path or Path(name), f"{bad[0]} is not a mapping", f"Its form is that of {name}")
    found: dict[str, Any] = table
    return found
