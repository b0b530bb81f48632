from __future__ import annotations

import io
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.common.terminal import Terminal
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.scores import score_answers
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.task import load_task
from retro.report.tables import slices_table

KINDS = ("bridge", "bridge", "comparison", None)


def asked(number: int, **labels: str) -> QuestionLine:
    return QuestionLine(id=f"{number}", question=f"Who {number}?", answers=("ada",), document_ids=(), labels=labels)


def scored(*names: str, questions: list[QuestionLine] | None = None) -> dict[str, Any]:
    mine = questions or [asked(n, **({"type": kind} if kind else {})) for n, kind in enumerate(KINDS)]
    said = {"with_passages": ["ada", "x", "x", "ada"], "closed_book": ["x", "x", "ada", "ada"]}
    answers = {
        name: [
            Answer(id=one.id, question=one.question, answers=one.answers, prediction=word, passages=(), setting=name)
            for one, word in zip(mine, words, strict=False)
        ]
        for name, words in said.items()
    }
    config = EvaluateConfig(slices=names, bootstrap_samples=20)
    return score_answers(config, load_task("qa"), mine, answers)[0]


def test_each_kind_of_question_has_its_scores_and_differences() -> None:
    parts = scored("type")["slices"]["type"]
    assert {value: part["questions"] for value, part in parts.items()} == {"(none)": 1, "bridge": 2, "comparison": 1}
    assert parts["bridge"]["settings"]["with_passages"]["f1"]["mean"] == 0.5
    assert parts["comparison"]["settings"]["closed_book"]["f1"]["mean"] == 1.0
    (difference,) = parts["comparison"]["differences"]
    assert (difference["minus"], difference["f1"]["mean"]) == ("closed_book", -1.0)


def test_slices_are_a_table() -> None:
    table = slices_table(scored("type"))
    assert table is not None
    assert [cells[:3] for cells, _ in table.rows] == [
        ("type", "(none)", "1"),
        ("type", "bridge", "2"),
        ("type", "comparison", "1"),
    ]
    stream = io.StringIO()
    Terminal(stream, width=100).table(table)
    assert "comparison" in stream.getvalue()
    assert slices_table(scored()) is None


def test_a_label_that_no_question_has_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"slices = 'typ': is not a label of these questions; did you mean 'type'"):
        scored("typ")
    with pytest.raises(ConfigError, match="needs labels; these questions have none"):
        scored("type", questions=[asked(0)])


def test_a_label_that_tells_no_kinds_is_refused() -> None:
    many = [asked(n, page=str(n)) for n in range(60)]
    said = [Answer(id=one.id, question="", answers=("a",), prediction="", passages=(), setting="s") for one in many]
    with pytest.raises(ConfigError, match="needs a label with at most 50 values; these questions have 60"):
        score_answers(EvaluateConfig(slices=("page",)), load_task("qa"), many, {"s": said})
