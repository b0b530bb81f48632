"""ALCE's scores, worked by hand, with rules in place of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.errors import DataError, DependencyError
from retro.evaluate.alce import AlceItem, beginning, first_line, read_alce, run_alce, score_alce

FOX: dict[str, Any] = {
    "question": "Which animals?",
    # What follows the first line is not scored.
    "output": "Red fox [1]. Blue sky [2].<|im_end|>\nLazy dog [2].",
    "docs": [{"id": "7", "title": "Fox", "text": "red fox"}, {"title": None, "text": "lazy dog"}, {"text": "blue sky"}],
    "qa_pairs": [
        {"question": "Which fox?", "short_answers": ["brown", "red fox"], "context": "x"},
        {"question": "Which sky?", "short_answers": ["green sky"]},
    ],
    "annotations": [{"long_answer": None}, {"long_answer": "Nothing."}, {"long_answer": "Red fox. Blue sky."}],
    "answer": "A red fox.",
}
SILENT: dict[str, Any] = FOX | {"output": "", "docs": []}


def written(tmp_path: Path, *items: Any) -> Path:
    path = tmp_path / "asqa.json"
    path.write_text(json.dumps({"data": items}), encoding="utf-8")
    return path


def items(tmp_path: Path, *data: Any) -> list[AlceItem]:
    return read_alce(written(tmp_path, *data))


def by_words(premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
    return [words(two) <= words(one) for one, two in zip(premises, hypotheses, strict=True)]


def words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())


def read_foxes(questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
    """Reads `the red fox` where it is asked for a fox and there is one, else the first word."""
    pairs = zip(questions, contexts, strict=True)
    return ["the red fox" if "fox" in one and "fox" in two else " ".join(two.split()[:1]) for one, two in pairs]


def test_an_item_is_read_as_it_is_scored(tmp_path: Path) -> None:
    (one,) = items(tmp_path, FOX)
    assert one == AlceItem(
        question="Which animals?",
        output="Red fox [1]. Blue sky [2].",
        passages=("Title: Fox\nred fox", "lazy dog", "blue sky"),
        pairs=(("Which fox?", ("brown", "red fox")), ("Which sky?", ("green sky",))),
        long_answers=("Nothing.", "Red fox. Blue sky."),
        answer="A red fox.",
    )
    assert one.plain == "Red fox. Blue sky."
    without = {key: FOX[key] for key in ("question", "output", "answer")}
    (bare,) = items(tmp_path, without)
    assert (bare.passages, bare.pairs, bare.long_answers) == ((), (), ("A red fox.",))


@pytest.mark.parametrize(
    ("output", "scored"),
    [("one\ntwo", "one"), ("\n one <|im_end|>\n", "one"), ("", ""), ("one", "one"), ("one\n<|im_end|>", "one")],
)
def test_the_first_line_is_scored(output: str, scored: str) -> None:
    assert first_line(output) == scored


def test_scores_without_models_worked_by_hand(tmp_path: Path) -> None:
    # Four words and none; one meaning of two and none; the last long answer word for word, and nothing of it.
    assert score_alce(items(tmp_path, FOX, SILENT)) == {
        "length": 2.0,
        "str_em": 25.0,
        "str_hit": 0.0,
        "rougeLsum": pytest.approx(50.0),
    }
    both = FOX | {"output": "The brown one, and a green sky"}
    found = score_alce(items(tmp_path, both, SILENT))
    assert (found["str_em"], found["str_hit"]) == (50.0, 50.0)
    assert score_alce(items(tmp_path, {"question": "?", "output": "a b [1]"})) == {"length": 2.0}


def test_citations_are_scored_over_answers(tmp_path: Path) -> None:
    # Half of the first answer's sentences and of its citations; nothing of the second, which is not passed over.
    found = score_alce(items(tmp_path, FOX, SILENT), entails=by_words)
    assert (found["citation_rec"], found["citation_prec"]) == (25.0, 25.0)


def test_a_reader_of_the_answer_answers_each_meaning(tmp_path: Path) -> None:
    # "the red fox" is "red fox"; "Red" shares nothing with "green sky". F1 of the second answer's "" is 0.
    found = score_alce(items(tmp_path, FOX, SILENT), answers=read_foxes)
    assert (found["QA-EM"], found["QA-F1"], found["QA-Hit"]) == (25.0, 25.0, 0.0)
    one_pair = FOX | {"qa_pairs": FOX["qa_pairs"][:1]}
    found = score_alce(items(tmp_path, one_pair), answers=read_foxes)
    assert (found["QA-EM"], found["QA-F1"], found["QA-Hit"]) == (100.0, 100.0, 100.0)
    with pytest.raises(ValueError, match="2 questions were asked and 1 answered"):
        score_alce(items(tmp_path, FOX), answers=lambda questions, contexts: [""])


def test_mauve_compares_question_and_answer_without_citations(tmp_path: Path) -> None:
    compared: list[Sequence[str]] = []

    def mauve(predictions: Sequence[str], references: Sequence[str]) -> float:
        compared.extend((predictions, references))
        return 0.75

    assert score_alce(items(tmp_path, FOX), mauve=mauve)["mauve"] == 75.0
    assert compared == [["Which animals? Red fox. Blue sky"], ["Which animals? A red fox"]]


def test_mauve_compares_a_hundred_words() -> None:
    assert beginning("Who?", "was " * 200) == "Who?" + " was" * 99
    assert beginning("Who?", " It  was. ") == "Who? It was"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "holds no question"),
        ([FOX | {"output": 3}], "holds 3 as data.0.output"),
        ([{"question": "?"}], "has no data.0.output"),
        ([FOX | {"docs": [{"title": "T"}]}], "has no data.0.docs.0.text"),
        ([FOX | {"qa_pairs": [{"question": "?", "short_answers": [" "]}]}], "data.0 has a pair without short_answers"),
        ([FOX, FOX | {"qa_pairs": None}], "data.1 has no qa_pairs; 1 of 2 questions lack them"),
        ([FOX, {"question": "?", "output": "a", "qa_pairs": FOX["qa_pairs"]}], "data.1 has no annotations and no answ"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, data: list[Any], problem: str) -> None:
    with pytest.raises(DataError, match=f"asqa.json: .*{problem}"):
        items(tmp_path, *data)


def test_a_file_that_is_no_alce_is_told_what_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[]")
    with pytest.raises(DataError, match=r"x\.json: .*as `retro export-answers --form alce` writes it"):
        read_alce(path)


def test_models_need_what_they_compare_with(tmp_path: Path) -> None:
    bare = items(tmp_path, {"question": "?", "output": "a"})
    with pytest.raises(ValueError, match="the items have no qa_pairs"):
        score_alce(bare, answers=read_foxes)
    with pytest.raises(ValueError, match="the items have no annotations and no answer"):
        score_alce(bare, mauve=lambda predictions, references: 0.0)
    with pytest.raises(ValueError, match="there is no item"):
        score_alce([])
    # Before a model is looked for.
    with pytest.raises(DataError, match=r"asqa\.json: has no qa_pairs. Give them to all questions, or leave out"):
        run_alce(tmp_path / "asqa.json", qa="no/such-model")


def test_scores_are_written_beside_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, FOX, SILENT)
    done = CliRunner().invoke(app, ["alce", str(path)])
    assert done.exit_code == 0, done.output
    assert "str_em" in done.output
    assert json.loads((tmp_path / "asqa.json.score").read_text()) == {
        "length": 2.0,
        "str_em": 25.0,
        "str_hit": 0.0,
        "rougeLsum": 50.0,
        "questions": 2,
        "models": {},
    }
    printed = CliRunner().invoke(app, ["alce", str(path), "--out", str(tmp_path / "s.json"), "--json"])
    assert json.loads(printed.output) == json.loads((tmp_path / "s.json").read_text())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, FOX)
    with pytest.raises(DataError, match=r"no/such/model: is not a folder. Give the folder of a model, or ORG/NAME"):
        run_alce(path, nli="no/such/model")
    with pytest.raises(DataError, match="no/such: the HuggingFace Hub does not give it"):
        run_alce(path, nli="no/such")


def test_mauve_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(DependencyError, match=r"mauve-text: computes MAUVE, and cannot .*pip install mauve-text"):
        run_alce(written(tmp_path, FOX), mauve=str(tmp_path))
