"""`retro quickstart`: a small chat model is asked about the documentation on this machine, with and without retrieval.

<out>/documents.jsonl, questions.json      from the source of installed packages; nothing is downloaded
<out>/answers/                             a run: database, BM25 index, answers, scores
<out>/index.html, results.json             what came of it
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.answers import Answer, read_answers
from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, read_json, write_json
from retro.documents import BY_WORDS, MODEL, build, model_settings, quoted
from retro.evaluate.metrics import f1, substring_match
from retro.evaluate.paired import p_value
from retro.quickstart.documents import DOCUMENTS, PACKAGES, QUESTIONS, write_documents
from retro.quickstart.page import page
from retro.run_config import RunConfig, load_run_config

log = logging.getLogger(__name__)

SETTINGS = ("closed_book", "with_passages", "gold_passages", "shuffled_passages")
RESULTS, PAGE, ANSWERS, WRITTEN = "results.json", "index.html", "answers", "documents.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for."""

    out: Path
    questions: int = 40
    seed: int = 1
    """Draws the questions."""
    model: str = MODEL
    packages: tuple[str, ...] = PACKAGES
    held_out: bool = True
    """Questions about the half of the documents that no setting was chosen on."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and what came of it in each setting."""

    question: str
    answers: tuple[str, ...]
    said: dict[str, Answer]
    right: dict[str, bool]


def run(options: Options) -> dict[str, Any]:
    """Make documents, questions, answers and scores, or what of them is missing, and write the page.

    Returns:
        What `results.json` has.

    Raises:
        DataError: A package is not installed, or too few questions can be made; or the model cannot be used.
        DependencyError: The model's package is missing.
        ArtifactError: `out` holds another quickstart, or the disk is full.
    """
    started = time.monotonic()
    documents = _documents(options)
    config = answers_run(options)
    build(config, ("corpus", "db", "index", "generate", "evaluate"))
    asked = read_asked(options.out / ANSWERS)
    results = summary(asked, read_json(options.out / ANSWERS / "8_evaluate" / "scores.json", "Run it again"))
    results |= {
        "model": options.model,
        "seed": options.seed,
        "documents": documents,
        "packages": list(options.packages),
        "seconds_now": round(time.monotonic() - started, 1),
    }
    write_json(options.out / RESULTS, results)
    with atomic_path(options.out / PAGE) as temporary:
        temporary.write_text(page(results, asked), encoding="utf-8")
    return results


def _documents(options: Options) -> dict[str, int]:
    """Write documents and questions, unless they are there: what was written, in numbers."""
    asked = asdict(options) | {"packages": list(options.packages)}
    # Another model answers the same questions; its answers are held against the others' by the stage that writes them.
    del asked["out"], asked["model"]
    path, remedy = options.out / WRITTEN, "Give another --out, or remove this folder"
    if not path.exists():
        written = write_documents(
            options.out, options.packages, options.questions, options.seed, held_out=options.held_out
        )
        # Last: without it the files beside it may be cut short, and are written again.
        write_json(path, {"asked": asked, "written": asdict(written)})
    found: dict[str, Any] = read_json(path, remedy, dict[str, dict[str, Any]])
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
    return load_run_config(
        None,
        [
            f"run_dir={quoted(options.out / ANSWERS)}",
            f"corpus.sources=[{{name: documents, path: {quoted(options.out / DOCUMENTS)}}}]",
            "corpus.split=[1, 0, 0]",
            *model_settings(options.model),
            *BY_WORDS,
            "generate.contexts_in_prompt=1",
            "generate.passages_from=retriever",
            f"generate.questions=[{quoted(options.out / QUESTIONS)}]",
            f"generate.settings=[{', '.join(SETTINGS)}]",
            "generate.max_new_tokens=40",
        ],
    )


def read_asked(run_dir: Path) -> list[Asked]:
    """The questions of a run with the answers of all settings, in order."""
    answers = {setting: read_answers(run_dir / "7_generate" / f"{setting}.jsonl") for setting in SETTINGS}
    return [
        Asked(
            question=together[0].question,
            answers=together[0].answers,
            said=dict(zip(SETTINGS, together, strict=True)),
            right={
                setting: bool(substring_match(one.prediction, one.answers))
                for setting, one in zip(SETTINGS, together, strict=True)
            },
        )
        for together in zip(*answers.values(), strict=True)
    ]


def summary(asked: list[Asked], scores: dict[str, Any]) -> dict[str, Any]:
    """Scores of each setting, and the paired tests of found passages against none and against another question's."""
    settings = {}
    for setting in SETTINGS:
        mine = scores["settings"][setting]
        settings[setting] = {
            "right": sum(one.right[setting] for one in asked),
            "substring_match": mine["substring_match"],
            "f1": mine["f1"],
            "recall": None if mine["recall"] is None else mine["recall"]["at"],
            "answer_in_passages": mine["answer_in_passages"],
        }
    tests = {}
    for other in ("closed_book", "shuffled_passages"):
        tests[other] = {
            "substring_match": _tested(asked, other, lambda answer: substring_match(answer.prediction, answer.answers)),
            "f1": _tested(asked, other, lambda answer: f1(answer.prediction, answer.answers)),
        }
    return {"questions": len(asked), "settings": settings, "with_passages_against": tests}


def _tested(asked: Sequence[Asked], other: str, score: Callable[[Answer], float]) -> dict[str, Any]:
    """The paired test of a score with the passages found against another setting."""
    found, others = ([score(one.said[setting]) for one in asked] for setting in ("with_passages", other))
    name, p = p_value(found, others, seed=0)
    return {"test": name, "p": p}
