"""Answers written for ALCE and for FactScore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.errors import ConfigError, DataError
from retro.evaluate.alce import read_alce
from retro.evaluate.answer_forms import export_answers, write_alce, write_factscore
from retro.qa.answer_files import Answer, answer_line
from retro.qa.question import Context

READ = (Context("T", "x", "7", 1.5, 3), Context("", "y"))


def answers(tmp_path: Path, *asked: str) -> Path:
    path = tmp_path / "with_passages.jsonl"
    made = [
        Answer(
            id=str(n), question=text, answers=(), prediction=f"Said {n} [1].", passages=READ, setting="with_passages"
        )
        for n, text in enumerate(asked)
    ]
    path.write_text("".join(map(answer_line, made)), encoding="utf-8")
    return path


def bios(tmp_path: Path, *items: dict[str, Any]) -> Path:
    path = tmp_path / "factscore.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


ADA = {"input": "Tell me about Ada. ", "topic": "Ada", "cat": ["rare", "Europe"], "ctxs": [{"text": "z"}]}
BOB = {"input": "Tell me about Bób.", "topic": "Bób"}


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_factscore_gets_a_line_for_each_question(tmp_path: Path) -> None:
    write_factscore(tmp_path / "out.jsonl", [ADA, BOB], ["She was.", "Er war.\nJa."])
    assert lines_of(tmp_path / "out.jsonl") == [
        {"input": ADA["input"], "output": "She was.", "topic": "Ada", "cat": ["rare", "Europe"]},
        {"input": BOB["input"], "output": "Er war.\nJa.", "topic": "Bób", "cat": None},
    ]
    with pytest.raises(ValueError, match="zip"):
        write_factscore(tmp_path / "out.jsonl", [ADA, BOB], ["She was."])
    with pytest.raises(DataError, match=r"asked: item 1 has no topic. Give every question the title of an article"):
        write_factscore(tmp_path / "out.jsonl", [ADA, BOB | {"topic": " "}], ["", ""], source=Path("asked"))


def test_alce_gets_the_question_the_answer_and_what_was_read(tmp_path: Path) -> None:
    item = {"question": "Who?", "docs": [{"text": "not read"}], "qa_pairs": [], "answer": "Ada."}
    write_alce(tmp_path / "out.json", [item], ["Ada [2]."], [READ])
    docs = [{"id": "7", "title": "T", "text": "x"}, {"id": "", "title": "", "text": "y"}]
    assert json.loads((tmp_path / "out.json").read_text()) == {"data": [item | {"output": "Ada [2].", "docs": docs}]}
    assert read_alce(tmp_path / "out.json")[0].passages == ("Title: T\nx", "y")


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_answer_file_is_exported_with_the_fields_of_its_questions(tmp_path: Path, wrapped: bool) -> None:
    asked: list[Any] = [{"question": "Who? ", "sample_id": "-7", "answer": "Ada."}, {"question": "Where?"}]
    path = tmp_path / "asqa.json"
    path.write_text(json.dumps({"data": asked} if wrapped else asked))
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        app, ["export-answers", str(answers(tmp_path, "Who?")), str(path), "--form=alce", f"--out={out}", "--limit=1"]
    )
    assert done.exit_code == 0, done.output
    assert f"{out}: 1 answers" in done.output.replace("\n", "")
    (one,) = json.loads(out.read_text())["data"]
    assert (one["question"], one["sample_id"], one["output"], len(one["docs"])) == ("Who? ", "-7", "Said 0 [1].", 2)


def test_factscore_is_exported_by_the_questions_input(tmp_path: Path) -> None:
    said = answers(tmp_path, "Tell me about Ada.", "Tell me about Bób.")
    assert export_answers(said, bios(tmp_path, ADA, BOB), "factscore", tmp_path / "out.jsonl") == 2
    assert [one["topic"] for one in lines_of(tmp_path / "out.jsonl")] == ["Ada", "Bób"]
    assert lines_of(tmp_path / "out.jsonl")[1]["output"] == "Said 1 [1]."


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    said, out = answers(tmp_path, "Tell me about Ada."), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"factscore\.jsonl: has 2 questions, .* has 1 answers. Give the file that was"):
        export_answers(said, bios(tmp_path, ADA, BOB), "factscore", out)
    with pytest.raises(DataError, match=r"item 0 asks 'Tell me about Bób\.', the answer is to 'Tell me about Ada\.'"):
        export_answers(said, bios(tmp_path, BOB), "factscore", out)
    with pytest.raises(DataError, match=r"item 0 asks 'None', .*in the form of alce"):
        export_answers(said, bios(tmp_path, ADA), "alce", out)
    with pytest.raises(DataError, match=r"factscore\.jsonl: item 0 has no topic"):
        export_answers(said, bios(tmp_path, {"input": ADA["input"]}), "factscore", out)
    with pytest.raises(ConfigError, match=r"--form = 'alse': is not a form; did you mean 'alce'"):
        export_answers(said, bios(tmp_path, ADA), "alse", out)
    assert not out.exists()
