"""A real model answers from documents that it never saw: closed-book, and with four kinds of passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.common.statistics import p_value
from retro.common.terminal import Table
from retro.evaluate.compare import ScoredAnswers, open_scored_answers
from retro.qa.answer_files import Answer, read_answers
from retro.quickstart.acts import AnsweredQuestion, Options, Section
from retro.quickstart.documents import DOCUMENTS, QUESTIONS, write_documents
from retro.report.format import percent
from retro.report.questions import highlight
from retro.report.tables import new_table, recall_text
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import BY_WORDS, build, model_settings
from retro.run.pipeline import stage

SETTINGS = ("closed_book", "with_passages", "gold_passages", "shuffled_passages")
METRICS = ("substring_match", "f1")
LABELS = {
    "closed_book": "closed-book",
    "with_passages": "with what the search found",
    "gold_passages": "with the right passage",
    "shuffled_passages": "with another question's passages",
}
_SHOWN = 12
"""Questions of a kind on the page."""
HEADINGS = ("asked", "right", "substring match", "F1", "right document found")
ANSWERS, WRITTEN = "answers", "documents.json"


class _WrittenData(TypedDict):
    asked: dict[str, Any]
    written: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class QuestionOutcome:
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


def outcomes(options: Options) -> list[QuestionOutcome]:
    """The questions with their answers, in order; `run` has made them."""
    config = answers_run(options)
    return read_outcomes(stage("generate").path(config), _sides(config))


def _sides(config: RunConfig) -> dict[str, ScoredAnswers]:
    return {setting: open_scored_answers(config.run_dir, setting=setting) for setting in SETTINGS}


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


def read_outcomes(answers_dir: Path, sides: Mapping[str, ScoredAnswers]) -> list[QuestionOutcome]:
    """The questions of a run with their answers, in order.

    Args:
        answers_dir: The directory of its generate stage.
        sides: The scored answers of each setting.
    """
    answers = [read_answers(answers_dir / f"{setting}.jsonl") for setting in sides]
    right = [side.values("substring_match") for side in sides.values()]
    return [
        QuestionOutcome(
            said=dict(zip(sides, said, strict=True)), right=dict(zip(sides, map(bool, scores), strict=True))
        )
        for said, scores in zip(zip(*answers, strict=True), zip(*right, strict=True), strict=True)
    ]


def summary(sides: Mapping[str, ScoredAnswers]) -> dict[str, Any]:
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


def _tested(found: ScoredAnswers, other: ScoredAnswers, metric: str) -> dict[str, Any]:
    name, p = p_value(found.values(metric), other.values(metric), seed=0)
    return {"test": name, "p": p}


def with_interval(value: Mapping[str, float]) -> str:
    """A share with its interval."""
    return f"{percent(value['mean'])} ({percent(value['low'])} to {percent(value['high'])})"


def rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each setting: right answers, their share, F1, and how often the passages hold the right document."""
    found: list[tuple[str, ...]] = []
    for setting, label in LABELS.items():
        mine = act["settings"][setting]
        right = f"{mine['right']} of {act['questions']}"
        found.append(
            (label, right, with_interval(mine["substring_match"]), with_interval(mine["f1"]), recall_text(mine))
        )
    return found


def tests_in_words(act: Mapping[str, Any]) -> list[str]:
    """A sentence for each paired test."""
    lines = []
    for other, tests in act["with_passages_against"].items():
        p = tests["substring_match"]["p"]
        lines.append(
            f"{LABELS['with_passages']} against {LABELS[other]}: p = {p:.2g} "
            f"({tests['substring_match']['test']}, {act['questions']} questions, paired)"
        )
    return lines


def _table(results: Mapping[str, Any]) -> Table:
    act = results["answers"]
    title = f"{act['questions']} questions about {', '.join(results['packages'])}, answered by {results['model']}"
    made = new_table(title, HEADINGS[0], right=HEADINGS[1:])
    for row in rows(act):
        made.add_row(*row)
    return made


def _list(title: str, outcomes: Sequence[QuestionOutcome], what: str) -> Section:
    if not outcomes:
        return Section(title=title, note="None.")
    more = f" The first {_SHOWN} are shown." if len(outcomes) > _SHOWN else ""
    asked = [_asked(one) for one in outcomes[:_SHOWN]]
    return Section(title=f"{title}: {len(outcomes)}", note=what + more, asked=asked)


def _asked(one: QuestionOutcome) -> AnsweredQuestion:
    found = one.said["with_passages"]
    said = [
        (LABELS[setting], one.right[setting], one.said[setting].prediction)
        for setting in ("closed_book", "with_passages")
    ]
    passages = [highlight(passage.text, found.answers) for passage in found.passages]
    return AnsweredQuestion(found.question, found.answers, said, passages)


def sections(results: Mapping[str, Any], outcomes: Sequence[QuestionOutcome]) -> list[Section]:
    """The act on the page: the table, the questions that only retrieval answers, then the failures.

    Args:
        results: As `results.json` has them.
        outcomes: The questions with their answers.
    """
    act = results["answers"]
    counts = act["documents"]
    only = [one for one in outcomes if one.right["with_passages"] and not one.right["closed_book"]]
    failed = [one for one in outcomes if not one.right["with_passages"]]
    asked = (
        f"{act['questions']} questions about {counts['sections']:,} sections of {counts['docstrings']:,} "
        "docstrings. Right: the answer holds a gold answer as whole words. Intervals hold 95 % of resamples of the "
        "questions."
    )
    made = (
        f"{counts['made']:,} questions were made from the docstrings by two patterns, without looking at any answer "
        "of a model: the default value of a parameter, and the version in which something was added. Those about one "
        f"half of the documents are asked here (drawn with seed {results['seed']}); the number of passages was chosen "
        "on the other half. The search is BM25 over passages of up to 128 tokens; the best goes into the prompt."
    )
    return [
        Section(
            title="1. A real model answers from documents that it never saw",
            note=asked,
            table=_table(results),
            below="; ".join(tests_in_words(act)) + ".",
        ),
        _list("Answered only with retrieval", only, "Wrong closed-book, right with the passages found."),
        _list("Wrong with retrieval", failed, "See whether the answer is in what the search found."),
        Section(title="How the questions were made", note=made),
    ]


def report(results: Mapping[str, Any]) -> tuple[Table | None, list[str]]:
    """The act at the terminal: a table, and the tests in words."""
    return _table(results), tests_in_words(results["answers"])
