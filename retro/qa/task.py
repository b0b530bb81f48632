"""Tasks: how their questions are read, asked and scored. One YAML file holds one task; ours are in `tasks/`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import ConfigError, DataError, require
from retro.common.registry import Registry, package_file, yaml_file
from retro.common.yaml_files import read_yaml
from retro.qa.metrics.registry import METRICS

Normalisation = Literal["squad", "nq", "triviaqa", "none"]
AnswerForm = Literal["texts", "parts", "drop", "option"]


class Layout(StageConfig):
    """Where a data set's own file has what a question needs.

    A path is names joined by dots. `name[]` goes into each item of a list, `name{}` into each value of an object. A
    name that an item lacks is looked for in the objects around it, the nearest first.
    """

    items: str = ""
    """From the whole file, or from one line of it, to its questions; empty: each is one."""

    skip_lines_with: str = ""
    """Lines that have this field are not questions, such as a header."""

    id: str = ""
    """The question's own id; empty: its number."""

    question: str
    """The question's text."""

    history: str = ""
    """Earlier turns of a conversation, as a list of texts, the user's first."""

    earlier_answer: str = ""
    """Where the questions of one list are one conversation: the answer that each of them had."""

    answers: tuple[str, ...]
    """Gold answers; of several paths, all that they lead to, in this order. Empty: the questions have none."""

    answer_form: AnswerForm = "texts"
    """`texts`: each is a gold answer. `parts`: all of them together are one. `drop`: objects with number, spans and
    date. `option`: the letter or the text of an option."""

    answers_are_json: bool = False
    """Whether the list of answers is a text that holds JSON."""

    answer_names: dict[str, str] = Field(default_factory=dict)
    """What the file calls each answer, in any case, and what it is called here: SUPPORTS, and true. Any other answer is
    an error. Empty: answers are as they are written."""

    answer_groups: str = ""
    """Lists of texts, of each of which one is wanted: the short answers of an ambiguous question."""

    no_answer: str = ""
    """A field that is true where the question has no answer."""

    blank: Literal["refuse", "no_answer", "skip", "ask"] = "refuse"
    """What a question without gold answers is: an error, one that has no answer, none of the task's, or one that is
    asked and scored by metrics that need no gold answer."""

    passages: tuple[str, ...] = ()
    """Lists of passages with their titles, ids and scores, in the forms of docs/tuning.md: the first one that a
    question has. A question may be without."""

    contexts: tuple[str, ...] = ()
    """Where it has none of these: texts of passages, in this order. A file without them has another layout."""

    titles: str = ""
    """Titles of `contexts`: one for all, or one for each."""

    underscores: bool = False
    """Whether titles and document ids are written with underscores for spaces, as in addresses of Wikipedia."""

    options: str = ""
    """Choices of a multiple-choice question."""

    option_labels: str = ""
    """What the file calls them, such as 1 to 4, where an answer names one of these; empty: A, B, …"""

    document_ids: str = ""
    """Documents that hold the answer."""

    labels: dict[str, str] = Field(default_factory=dict)
    """What kind of question it is, by name: for scores of each kind. Several values are joined by commas."""

    @model_validator(mode="after")
    def _answered(self) -> Layout:
        need = "where the gold answers are; or blank: ask, where there are none"
        require(self, "answers", bool(self.answers) or self.blank == "ask", need)
        return self


class Example(StageConfig):
    """A question shown with its answer."""

    question: str
    answer: str
    contexts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class FewShot(StageConfig):
    """Examples shown before the question."""

    count: NonNegativeInt = 0
    """How many, the first ones."""

    examples: tuple[Example, ...] = ()
    """They themselves."""

    file: Path | None = None
    """Or a question file that holds them, from the folder of the task's own file."""

    contexts: NonNegativeInt = 0
    """Passages shown with each."""

    @model_validator(mode="after")
    def _enough(self) -> FewShot:
        require(self, "file", not (self.file and self.examples), "to be left out where examples are given")
        if self.file is None:
            need = f"at most {len(self.examples)}, the number of examples; or a file that has more"
            require(self, "count", self.count <= len(self.examples), need)
        return self


class Task(StageConfig):
    """How a kind of question is read, asked, and what its answers are scored by."""

    whole_file: ClassVar[bool] = True

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """As the user types it; question sets and results are named after it."""

    version: PositiveInt
    """Rises with every change that can change a score, so that scores of two versions are never compared unawares."""

    description: str
    """One line."""

    source: str = ""
    """Where the data set comes from, and under which licence."""

    official: str = ""
    """How its authors score it, and what differs here."""

    kind: str
    """How the answer is asked for, in qa/prompts.yaml."""

    instruction: str | None = None
    """Said before the question in place of the kind's instruction; None: that."""

    template: str = ""
    """One of the alternative templates of the prompt texts; empty: the usual prompt. `generate.template` wins."""

    layouts: tuple[Layout, ...] = ()
    """Forms of the data set's own files. A file in InstructRetro's form is read without any."""

    normalisation: Normalisation = "squad"
    """What is taken off answers before they are compared. `squad`: case, punctuation, articles. `nq`: that of
    Unicode's decomposed form. `triviaqa`: as squad, punctuation leaving a space."""

    whole_answers: tuple[str, ...] = ()
    """Answers that are right or wrong as a whole: words shared with them count nothing."""

    no_answer: tuple[str, ...] = ()
    """Texts that say that there is no answer. The first is the gold answer of a question that has none."""

    metrics: tuple[str, ...] = Field(min_length=1)
    """Names of metrics, the main one first: those of docs/evaluation.md, or of another package."""

    few_shot: FewShot = FewShot()
    """Examples before the question."""

    stop: tuple[str, ...] = ()
    """Texts that end an answer."""

    max_new_tokens: PositiveInt = 32
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        unanswerable = any(one.no_answer or one.blank == "no_answer" for one in self.layouts)
        need = "a text that says that there is no answer: its layouts have questions without one"
        require(self, "no_answer", bool(self.no_answer) or not unanswerable, need)
        for name in self.metrics:
            METRICS.require(name, f"{type(self).__name__}.metrics")
        require(self, "metrics", len(set(self.metrics)) == len(self.metrics), "each metric once")
        require(self, "stop", all(self.stop), "texts that are not empty")
        return self

    def record(self) -> dict[str, Any]:
        """What answers carry of it, so that they can be scored without its file."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude={"layouts", "source", "official", "description"})
        if self.few_shot.file is not None:
            # Where the examples are changes nothing.
            data["few_shot"]["file"] = self.few_shot.file.name
        return data


SUFFIXES = (".yaml", ".yml")


def _shipped_names() -> list[str]:
    names = (entry.name for entry in (resources.files("retro.qa") / "tasks").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


TASKS: Registry[Traversable] = Registry(
    "retro.tasks",
    "a task",
    {name: f"retro.qa.tasks:{name}.yaml" for name in _shipped_names()},
    yaml_file,
    load=package_file,
)
"""The file of every task that has a name."""


def task_names() -> tuple[str, ...]:
    """The tasks that have a name: those that are shipped, and those of other packages."""
    return tuple(TASKS)


def load_task(name_or_path: str | Path) -> Task:
    """The task of that name, or the one in a user's file.

    A file may say `extends: NAME` of another task, and then gives only what differs.

    Args:
        name_or_path: A name, or a path that ends in .yaml.

    Raises:
        ConfigError: There is no such task; the nearest is named.
        DataError: The file is missing, or is not a task.
        DependencyError: Another package brings the task, and its file is not there.
    """
    name = str(name_or_path)
    if name.endswith(SUFFIXES):
        return _task_from_file(Path(name))
    return _shipped(name) if name in TASKS.built_in else _packaged(name)


def all_tasks() -> list[Task]:
    """Every task that has a name, in the order of their names."""
    return [load_task(name) for name in task_names()]


_HINT = "a task of your own is a path that ends in .yaml"


@cache
def _shipped(name: str) -> Task:
    return Task(**_named_data(name))


def _packaged(name: str) -> Task:
    with resources.as_file(TASKS.find(name, "task", _HINT)) as path:
        task = _task_from_file(path)
        if task.name != name:
            problem = f"is the task {task.name!r}, which its package offers as {name!r}"
            raise DataError(path, problem, "Give it one name: results are distinguished by it")
    return task


def _named_data(name: str) -> dict[str, Any]:
    with resources.as_file(TASKS.find(name, "task", _HINT)) as path:
        return read_yaml(path)


def _task_from_file(path: Path) -> Task:
    data = read_yaml(path)
    base = data.pop("extends", None)
    try:
        task = Task(**((_named_data(str(base)) if base is not None else {}) | data))
    except ConfigError as error:
        raise DataError(path, str(error), "A task has the fields of docs/evaluation.md") from None
    few = task.few_shot
    if few.file is None:
        return task
    # Beside the task's file, wherever the command was started.
    return task.model_copy(update={"few_shot": few.model_copy(update={"file": path.parent / few.file})})
