"""Questions answered and scored: HotpotQA's distractor setting, or any question file.

answer/answers/                            as the generate stage leaves it: `answer`, the answers themselves, and
                                           `whole_text`, all that was said, for comparison with published figures
scores/evaluate/                           as the evaluate stage leaves it
scores/hops.json                           what was looked up, and what did not go as it should
scores/comparison.json, comparison.md      beside another model's
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from retro.common.artifacts import Manifest, describe_files, fingerprint, write_manifest
from retro.common.errors import ConfigError
from retro.common.files import atomic_path, write_json, write_plain_json
from retro.common.progress import Progress
from retro.qa.answer_files import (
    QUESTIONS,
    Answer,
    answer_line,
    passage_record,
    question_line_of,
    question_lines,
    read_answers,
)
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.scoring import score
from retro.qa.question import Question
from retro.qa.task import Task, load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.multi_hop.answer_config import AnswerConfig
from retro.recipes.multi_hop.dialogs import DialogTexts
from retro.recipes.multi_hop.hop_scores import hop_table
from retro.recipes.multi_hop.opening import opened_model, opened_retriever, way_of
from retro.recipes.multi_hop.protocol import Outcome, run

if TYPE_CHECKING:
    from retro.evaluate.compare import ScoredAnswers
    from retro.generate.answer_writer import AnswerFile

log = logging.getLogger(__name__)

ANSWERS, EVALUATED = "answers", "evaluate"
ANSWER, WHOLE_TEXT = "answer", "whole_text"
"""The two settings that are scored: the answer part, and as published, the whole text."""
HOPS, COMPARISON, TABLE = "hops.json", "comparison.json", "comparison.md"
_STAGE = "generate"


def answer(work: StepRun) -> Made:
    """Answer the questions, some side by side; continues where a killed run stopped.

    Raises:
        RetroError: The questions cannot be read, or model or retriever cannot be opened.
    """
    from retro.generate.answer_writer import AnswerFile, begun_precision

    config: AnswerConfig = work.settings.answer
    task = task_of(config)
    questions = drawn_questions(config, task)
    texts = DialogTexts.load(config.texts)
    out, begun = work.directory / ANSWERS, monotonic()
    out.mkdir(exist_ok=True)
    with (
        opened_retriever(config.retriever, work.config, questions) as retriever,
        opened_model(work, config, _tuned(work), begun_precision(out)) as model,
    ):
        identity = {"model": dict(model.identity), "retriever": dict(retriever.identity), "texts": texts.identity}
        header = _header(config, task, questions, identity)
        file = AnswerFile(out / f"{ANSWER}.jsonl", header, [one.id for one in questions], config.batch_size)
        way = way_of(config, texts)
        _answer_all(
            file, questions, task, config.batch_size, lambda batch: run(list(map(way, batch)), model, retriever)
        )
    counts = {"questions": len(questions), **hop_table(questions, _finish(out, header, questions))["counts"]}
    files = [f"{ANSWERS}/manifest.json"]
    return Made(files=files, counts=counts, report={"seconds": round(monotonic() - begun, 3)})


def _tuned(work: StepRun) -> Path:
    """The model that the recipe tuned, where it is what answers."""
    return work.made_by("model") / "sft" if "model" in work.step.needed(work.settings) else Path()


def _answer_all(
    file: AnswerFile,
    questions: Sequence[Question],
    task: Task,
    batch_size: int,
    answer_batch: Callable[[Sequence[Question]], list[Outcome]],
) -> None:
    """Answer what a file still lacks, batch by batch; the progress line has the metrics so far."""
    scores = RunningScores(task, read_answers(file.path) if file.path.exists() else [], questions)
    with Progress(len(questions), what="multi_hop", unit="questions", done=file.done) as bar:
        while not file.complete:
            batch = questions[file.done : file.done + batch_size]
            answers = [answer_of(*pair) for pair in zip(batch, answer_batch(batch), strict=True)]
            file.append(answers)
            scores.add(batch, answers)
            bar.advance(len(batch), scores.note)


def task_of(config: AnswerConfig) -> Task:
    """The task, scored by the recipe's metrics.

    Raises:
        ConfigError: There is no such task or metric.
    """
    task = load_task(config.task)
    return Task(**(task.model_dump() | {"metrics": config.metrics}))


def drawn_questions(config: AnswerConfig, task: Task) -> list[Question]:
    """So many questions of the file, drawn by the seed, in its order.

    Raises:
        ConfigError: No file is given, or it has fewer.
        DataError: It cannot be read.
    """
    if config.questions is None:
        raise ConfigError("recipe.multi_hop.answer.questions", None, "needs a question file")
    found = read_task_questions(config.questions, task)
    if config.count is None:
        return found
    if config.count > len(found):
        most = f"needs at most {len(found)}, the questions of {config.questions}"
        need = f"{most}; null takes all (of `evaluate`, --num-samples 0)"
        raise ConfigError("recipe.multi_hop.answer.count", config.count, need)
    places = sorted(random.Random(config.seed).sample(range(len(found)), config.count))
    return [found[place] for place in places]


def answer_of(question: Question, outcome: Outcome) -> Answer:
    """An outcome as a line of an answer file. One that failed counts as wrong, and says why."""
    passages = dict.fromkeys(passage_record(one) for hop in outcome.hops for one in hop.passages)
    return Answer(
        id=question.id,
        question=question.question,
        answers=question.answers,
        prediction=outcome.answer,
        passages=tuple(passages),
        setting=ANSWER,
        skipped=outcome.failed,
        details=outcome.details(),
    )


def _whole_text(one: Answer) -> Answer:
    text = str(one.details["multi_hop"]["text"])
    return Answer(**(vars(one) | {"prediction": text, "setting": WHOLE_TEXT, "details": {}}))


class RunningScores:
    """Means of what is answered so far, for the progress line."""

    def __init__(self, task: Task, answers: Sequence[Answer], questions: Sequence[Question]) -> None:
        self._task, self._sums, self._count = task, dict.fromkeys(task.metrics, 0.0), 0
        if answers:
            self.add(questions[: len(answers)], answers)

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Count more answers."""
        values = score(self._task, [question_line_of(one) for one in questions], answers)
        for name, numbers in values.items():
            self._sums[name] += sum(numbers)
        self._count += len(answers)

    @property
    def note(self) -> str:
        """The means, in percent."""
        return ", ".join(f"{name} {100 * total / self._count:.1f}" for name, total in self._sums.items())


def _header(
    config: AnswerConfig, task: Task, questions: Sequence[Question], identity: dict[str, Any]
) -> dict[str, Any]:
    """What shapes the answers."""
    asked = fingerprint([[one.id, one.question, list(one.answers)] for one in questions])
    shaping = {name: getattr(config, name) for name in ("method", "form", "examples", "hops")}
    return {
        "setting": ANSWER,
        "task": task.name,
        "task_version": task.version,
        "metrics": list(task.metrics),
        "task_record": task.record(),
        "precision": identity["model"].get("precision", ""),
        "max_new_tokens": config.model.max_new_tokens,
        "temperature": config.model.temperature,
        "identity": identity | {"questions": asked},
        **shaping,
    }


def _finish(out: Path, header: dict[str, Any], questions: Sequence[Question]) -> list[Answer]:
    """The answers, now that there are all of them; their folder is as the generate stage leaves one."""
    answers = read_answers(out / f"{ANSWER}.jsonl")
    _write_lines(out / f"{WHOLE_TEXT}.jsonl", map(_whole_text, answers))
    write_json(out / f"{WHOLE_TEXT}.header.json", header | {"setting": WHOLE_TEXT})
    with atomic_path(out / QUESTIONS) as temporary:
        temporary.write_text(question_lines(questions), encoding="utf-8")
    names = [f"{setting}{ending}" for setting in (ANSWER, WHOLE_TEXT) for ending in (".jsonl", ".header.json")]
    counts = {"questions": len(questions), "settings": [ANSWER, WHOLE_TEXT]}
    files = describe_files(out, [QUESTIONS, *names])
    write_manifest(out, Manifest(stage=_STAGE, config=header, parents={}, counts=counts, files=files))
    return answers


def _write_lines(path: Path, answers: Iterator[Answer]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(map(answer_line, answers)), encoding="utf-8")


def scores(work: StepRun) -> Made:
    """Score the answers, with what was looked up, and beside another model's where one is given.

    Raises:
        RetroError: As the evaluate stage; or the other model answered other questions.
    """
    from retro.evaluate import score as evaluate
    from retro.evaluate.compare import compare, open_scored_answers
    from retro.evaluate.scores import PER_QUESTION, SCORES

    config: AnswerConfig = work.settings.answer
    out, stage = work.directory, work.made_by("answer") / ANSWERS
    task = task_of(config)
    found = out / EVALUATED
    evaluate.run(work.config.evaluate, stage, found, report=out / "report.html", run_dir=work.config.run_dir)
    questions = drawn_questions(config, task)
    table = hop_table(questions, read_answers(stage / f"{ANSWER}.jsonl"))
    write_plain_json(out / HOPS, table)
    for line in table["lines"]:
        log.info("multi_hop: %s", line)
    files = [f"{EVALUATED}/{SCORES}", f"{EVALUATED}/{PER_QUESTION}", HOPS]
    if config.compare_with is not None:
        pair = compared_with(config.compare_with), open_scored_answers(found, setting=ANSWER)
        files += write_comparison(compare(*pair), out)
    return Made(files=files, counts={"hops": table["counts"]})


def compared_with(other: Path) -> ScoredAnswers:
    """Scored answers of another model: of a `scores` folder, or whatever `retro compare` takes.

    Raises:
        ArtifactError: There are none.
    """
    from retro.evaluate.compare import open_scored_answers

    return open_scored_answers(other / EVALUATED if (other / EVALUATED).is_dir() else other, setting=ANSWER)


def write_comparison(found: dict[str, Any], out: Path) -> list[str]:
    """Write what `retro.evaluate.compare.compare` found, and as a table; gives the names of the files."""
    write_plain_json(out / COMPARISON, found)
    with atomic_path(out / TABLE) as temporary:
        temporary.write_text(comparison_table(found) + "\n", encoding="utf-8")
    return [COMPARISON, TABLE]


def comparison_table(found: dict[str, Any]) -> str:
    """What `retro.evaluate.compare.compare` found, in Markdown: means in percent, paired differences, p-values."""
    rows = ["| metric | A | B | A - B | p |", "|---|---|---|---|---|"]
    for name, one in found["metrics"].items():
        mean, low, high = (100 * one["difference"][key] for key in ("mean", "low", "high"))
        difference = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        rows.append(f"| {name} | {100 * one['a']:.1f} | {100 * one['b']:.1f} | {difference} | {one['p']:.2g} |")
    sides = [f"{side.upper()}: {found[side]['directory']}" for side in ("a", "b")]
    sure = 100 * found["intervals"]["confidence"]
    return "\n\n".join(
        [*sides, f"{found['questions']} questions, in %, paired, with {sure:g} % intervals", "\n".join(rows)]
    )
