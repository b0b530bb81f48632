"""A real model answers from documents that it never saw: closed-book, and with four kinds of passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.answers import Answer, read_answers
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.documents import BY_WORDS, build, model_settings
from retro.evaluate.compare import Side, open_side
from retro.evaluate.paired import p_value
from retro.pipeline import stage
from retro.quickstart.documents import DOCUMENTS, QUESTIONS, write_documents
from retro.quickstart.options import Options
from retro.run_config import RunConfig, run_config_of

SETTINGS = ("closed_book", "with_passages", "gold_passages", "shuffled_passages")
METRICS = ("substring_match", "f1")
ANSWERS, WRITTEN = "answers", "documents.json"


class _WrittenData(TypedDict):
    asked: dict[str, Any]
    written: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a question in each setting."""

    said: Mapping[str, Answer]
    right: Mapping[str, bool]


def run(options: Options) -> dict[str, Any]:
    """Make documents, questions, answers and scores, or what of them is missing.

    Returns:
        Questions, scores by setting, paired tests, counts of documents.

    Raises:
        DataError: A package is not installed, or too few questions can be made; or the model cannot be used.
        DependencyError: The model's package is missing.
        ArtifactError: `out` holds another quickstart, or the disk is full.
    """
    counts = documents(options)
    return answer(options) | {"documents": counts}


def answer(options: Options) -> dict[str, Any]:
    """Have the questions that stand in `out` answered from the documents there: scores by setting, paired tests."""
    config = answers_run(options)
    build(config, ("corpus", "db", "index", "generate", "evaluate"))
    return summary(_sides(config))


def outcomes(options: Options) -> list[Outcome]:
    """The questions with their answers, in order; `run` has made them."""
    config = answers_run(options)
    return read_outcomes(stage("generate").path(config), _sides(config))


def _sides(config: RunConfig) -> dict[str, Side]:
    return {setting: open_side(config.run_dir, setting=setting) for setting in SETTINGS}


def documents(options: Options) -> dict[str, int]:
    """Write documents and questions, unless they are there: what was written, in numbers.

    Raises:
        ArtifactError: `out` holds those of another quickstart.
        DataError: A package is not installed, or too few questions can be made.
    """
    # Another model answers the same questions; its answers are held against the others' by the stage that writes them.
    asked = {name: getattr(options, name) for name in ("questions", "seed", "held_out")}
    asked |= {"packages": list(options.packages)}
    path, remedy = options.out / WRITTEN, "Give another --out, or remove this folder"
    if not path.exists():
        written = write_documents(
            options.out, options.packages, options.questions, options.seed, held_out=options.held_out
        )
        # Last: without it the files beside it may be cut short, and are written again.
        write_json(path, {"asked": asked, "written": asdict(written)})
    found: dict[str, Any] = read_json(path, remedy, _WrittenData)
    if found["asked"] != asked:
        was = found["asked"]
        changed = [
            f"{name} was {was.get(name)}, now {value}" for name, value in asked.items() if was.get(name) != value
        ]
        problem = "; ".join(changed)
        raise ArtifactError(options.out, f"holds another quickstart ({problem})", remedy)
    return dict(found["written"])


def answers_run(options: Options) -> RunConfig:
    """The run that answers. Its settings were chosen on the questions that are not held out."""
    answering = model_settings(options.model)
    return run_config_of(
        {
            **BY_WORDS,
            "run_dir": options.out / ANSWERS,
            "corpus": {
                "sources": [{"name": "documents", "path": options.out / DOCUMENTS}],
                "split": [1, 0, 0],
                "tokenizer": answering["tokenizer"],
            },
            "generate": {
                **answering["generate"],
                "contexts_in_prompt": 1,
                "passages_from": "retriever",
                "questions": [options.out / QUESTIONS],
                "settings": SETTINGS,
                "max_new_tokens": 40,
            },
        }
    )


def read_outcomes(answers_dir: Path, sides: Mapping[str, Side]) -> list[Outcome]:
    """The questions of a run with their answers, in order.

    Args:
        answers_dir: The directory of its generate stage.
        sides: The scored answers of each setting.
    """
    answers = [read_answers(answers_dir / f"{setting}.jsonl") for setting in sides]
    right = [side.values("substring_match") for side in sides.values()]
    return [
        Outcome(said=dict(zip(sides, said, strict=True)), right=dict(zip(sides, map(bool, scores), strict=True)))
        for said, scores in zip(zip(*answers, strict=True), zip(*right, strict=True), strict=True)
    ]


def summary(sides: Mapping[str, Side]) -> dict[str, Any]:
    """Scores of each setting, and the paired tests of found passages against none and against another question's."""
    settings = {}
    for setting, side in sides.items():
        mine = side.scores["settings"][setting]
        settings[setting] = {name: mine[name] for name in (*METRICS, "recall")}
        settings[setting]["right"] = round(sum(side.values("substring_match")))
    tests = {
        other: {metric: _tested(sides["with_passages"], sides[other], metric) for metric in METRICS}
        for other in ("closed_book", "shuffled_passages")
    }
    (questions,) = {len(side.questions) for side in sides.values()}
    return {"questions": questions, "settings": settings, "with_passages_against": tests}


def _tested(found: Side, other: Side, metric: str) -> dict[str, Any]:
    name, p = p_value(found.values(metric), other.values(metric), seed=0)
    return {"test": name, "p": p}
