"""The page of cases: for single questions the documents, each mode's answer, and what its sentences lean on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from retro.common.statistics import RIGHT
from retro.evaluate.compare import open_scored_answers
from retro.qa.answer_files import Answer
from retro.qa.question import Context, Question
from retro.recipes.base import StepRun
from retro.recipes.comparison import compare_modes, interval
from retro.recipes.instruct_rag import data
from retro.recipes.instruct_rag.citations import Claim, as_shown, claims
from retro.recipes.knowledge_conflict.quadrants import holds_answer
from retro.report.questions import highlight
from retro.report.render import render, write_page


@dataclass(frozen=True, kw_only=True)
class ShownDocument:
    """A document on the page."""

    number: int
    title: str
    text: Markup
    """Answers are marked."""
    holds_answer: bool
    relevant: bool
    """Whether it holds an answer, or a sentence cites it; others are faded."""


@dataclass(frozen=True, kw_only=True)
class ModeAnswer:
    """A mode's answer."""

    mode: str
    right: bool
    claims: Sequence[tuple[Claim, Markup]]
    """Sentences, answers marked in them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question on the page."""

    number: int
    question: str
    answers: Sequence[str]
    documents: Sequence[ShownDocument]
    by_mode: Sequence[ModeAnswer]

    @property
    def group(self) -> str:
        """By whether a document holds an answer."""
        return "in_documents" if any(one.holds_answer for one in self.documents) else "not_in_documents"


def write_cases(work: StepRun, answers: Mapping[str, Sequence[Answer]], path: Path) -> None:
    """Write the page.

    Args:
        work: The step that scores; its modes are scored.
        answers: By mode, of all questions.
        path: Where.
    """
    questions = data.read_chosen(work.made_by("answer") / data.TEST)[: work.settings.cases]
    table = compare_modes(work.directory, list(answers))
    metric = table["metric"]
    points = {mode: open_scored_answers(work.directory / mode).values(metric) for mode in answers}
    cases = [
        case_of(
            place + 1, question, as_shown(question.contexts, work.settings.documents_of_test.order),
            {mode: (each[place], points[mode][place]) for mode, each in answers.items()},
        )
        for place, question in enumerate(questions)
    ]  # fmt: skip
    rows = [(mode, interval(means[metric])) for mode, means in table["modes"].items()]
    title = data.known_set(work).title or work.settings.set
    write_page(path, cases_page(title, metric, rows, cases))


def case_of(
    number: int, question: Question, shown: Sequence[Context], answers: Mapping[str, tuple[Answer, float]]
) -> Case:
    """A question on the page.

    Args:
        number: Its place, from 1.
        question: With its gold answers.
        shown: Its documents in the order of their numbers.
        answers: By mode, with the main metric of each.
    """
    by_mode = [_mode_answer(mode, *each, shown if mode != "closed_book" else ()) for mode, each in answers.items()]
    documents = _documents(shown, data.short_answers(question), by_mode)
    return Case(
        number=number, question=question.question, answers=question.answers, documents=documents, by_mode=by_mode
    )


def cases_page(title: str, metric: str, rows: Sequence[tuple[str, str]], cases: Sequence[Case]) -> str:
    """The page as HTML.

    Args:
        title: Of the set.
        metric: The main one.
        rows: Modes and their scores.
        cases: Questions.
    """
    lede = (
        f"The first {len(cases)} questions. Answers of the set are marked; documents that hold none and that no answer "
        "cites are faded. Behind each sentence stand the documents that it leans on: those that it names, or in "
        "brackets the one that shares at least half of its words."
    )
    return render("rationales", name=f"InstructRAG: {title}", lede=lede, metric=metric, rows=rows, cases=cases)


def _mode_answer(mode: str, answer: Answer, points: float, shown: Sequence[Context]) -> ModeAnswer:
    found = claims(answer.prediction, shown)
    marked = [(one, highlight(one.text, answer.answers)) for one in found]
    return ModeAnswer(mode=mode, right=points >= RIGHT, claims=marked)


def _documents(shown: Sequence[Context], answers: Sequence[str], by_mode: Sequence[ModeAnswer]) -> list[ShownDocument]:
    named = {number for one in by_mode for claim, _ in one.claims for number in claim.cited}
    found = []
    for number, one in enumerate(shown, start=1):
        holds = holds_answer(one.text, answers)
        found.append(
            ShownDocument(
                number=number, title=one.title, text=highlight(one.text, answers), holds_answer=holds,
                relevant=holds or number in named,
            )
        )  # fmt: skip
    return found
