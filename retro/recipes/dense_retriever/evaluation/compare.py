"""Two retrievers on the same questions and passages, of one run or of two: paired differences with their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.config import unknown_name
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.common.json_files import json_items, read_text, wrong_type
from retro.recipes.dense_retriever.evaluation.judgement import Values, differences
from retro.recipes.knowledge_conflict.metrics import Intervals

COMMAND = "retro recipe dense_retriever"
SCORES, QUESTIONS = "embedders.json", "questions.jsonl"
_REMEDY = f"Run `{COMMAND} run CONFIG` to its end first, or give the right folder"


class _Set(TypedDict):
    questions: int
    passages: int
    searched: str
    retrievers: dict[str, dict[str, Any]]


class _Scores(TypedDict):
    intervals: dict[str, float]
    at: list[int]
    sets: dict[str, _Set]


class _Line(TypedDict):
    set: str
    id: str
    question: str
    judged_by: str
    values: dict[str, dict[str, float]]
    best: dict[str, dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One retriever's values."""

    name: str
    """Of the run."""
    retriever: str
    directory: Path
    scores: Mapping[str, Any]
    lines: Mapping[str, Sequence[Mapping[str, Any]]]
    """By set, lines of questions.jsonl."""

    def values(self, name: str) -> list[Values]:
        """The values of a set, question by question."""
        return [one["values"][self.retriever] for one in self.lines[name]]


def open_side(path: Path, retriever: str) -> Side:
    """The values of a retriever in a run.

    Args:
        path: The run's directory, the recipe's folder in it, or that of the step `evaluate`.
        retriever: By its name.

    Raises:
        ArtifactError: There are no scores, or a file of them is damaged.
        ConfigError: The run has no such retriever.
    """
    places = (path, path / "evaluate", path / "recipe_dense_retriever" / "evaluate")
    directory = next((one for one in places if (one / SCORES).is_file()), None)
    if directory is None:
        raise ArtifactError(path, "holds no scores of dense_retriever", _REMEDY)
    scores = read_json(directory / SCORES, _REMEDY, _Scores)
    known = list(dict.fromkeys(name for one in scores["sets"].values() for name in one["retrievers"]))
    if retriever not in known:
        raise ConfigError("retriever", retriever, unknown_name(retriever, known).replace("a setting", "a retriever"))
    lines = read_lines(directory / QUESTIONS)
    return Side(name=path.resolve().name, retriever=retriever, directory=directory, scores=scores, lines=lines)


def read_lines(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The questions with their values, by set.

    Raises:
        ArtifactError: A line is none.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in json_items(path, read_text(path, "file of scored questions")):
        if problem := wrong_type(one.value, _Line):
            raise ArtifactError(path, f"{one.place} {problem}", _REMEDY)
        found.setdefault(one.value["set"], []).append(one.value)
    return found


def compare(a: Side, b: Side, only: str = "") -> dict[str, Any]:
    """Differences of b from a, as JSON values.

    Args:
        a: One retriever.
        b: Another one.
        only: One set; empty: all that both were asked.

    Raises:
        ConfigError: Both are the same, or they have no set, or not this one, in common.
        ArtifactError: A set has other questions, or other passages were searched.
    """
    if a.directory.resolve() == b.directory.resolve() and a.retriever == b.retriever:
        raise ConfigError("RUN_B", str(b.directory), f"needs another run, or another retriever than {a.retriever}")
    common = [name for name in a.scores["sets"] if name in b.scores["sets"]]
    if only and only not in common:
        raise ConfigError("set", only, unknown_name(only, common).replace("a setting", "a set of both"))
    if not common:
        sets = f"{', '.join(a.scores['sets'])} and {', '.join(b.scores['sets'])}"
        raise ConfigError("RUN_B", str(b.directory), f"needs a set of questions that RUN_A has too; they have {sets}")
    how = a.scores["intervals"]
    intervals = Intervals(confidence=how["confidence"], samples=int(how["resamples"]), seed=int(how["seed"]))
    names = [only] if only else common
    return {
        "a": {"name": a.name, "directory": str(a.directory), "retriever": a.retriever},
        "b": {"name": b.name, "directory": str(b.directory), "retriever": b.retriever},
        "intervals": how,
        "sets": {name: _of_set(a, b, name, intervals) for name in names},
    }


def _of_set(a: Side, b: Side, name: str, intervals: Intervals) -> dict[str, Any]:
    remedy = "Only what was found for the same questions in the same passages can be compared"
    one, other = a.scores["sets"][name], b.scores["sets"][name]
    if one["searched"] != other["searched"]:
        raise ArtifactError(b.directory, f"searched other passages for {name} than {a.directory}", remedy)
    mine, theirs = a.lines[name], b.lines[name]
    for number, (line, its) in enumerate(zip(mine, theirs, strict=False), start=1):
        for key in ("id", "question", "judged_by"):
            if line[key] != its[key]:
                problem = (
                    f"question {number} of {name} has {key} {its[key][:80]!r}, {a.directory} has {line[key][:80]!r}"
                )
                raise ArtifactError(b.directory, problem, remedy)
    if len(mine) != len(theirs):
        raise ArtifactError(b.directory, f"has {len(theirs)} questions of {name}, {a.directory} {len(mine)}", remedy)
    for side in (a, b):
        if side.retriever not in side.scores["sets"][name]["retrievers"]:
            raise ArtifactError(side.directory, f"has no {side.retriever} in {name}", remedy)
    return {"questions": len(mine), "metrics": differences(a.values(name), b.values(name), intervals)}
