from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.corpus.build import run
from retro.qa.question_files import read_questions
from tests.corpus.texts import settings

SCRIPT = Path(__file__).parents[2] / "tools" / "retro" / "examples" / "convert_hotpotqa.py"


def item(number: int, **others: Any) -> dict[str, Any]:
    context = [["Shared", ["Known to all.", " Twice."]], [f"Page {number}", [f"It is {number}."]], ["Empty", []]]
    fields = {"_id": f"q{number}", "question": f"What is {number}? ", "answer": f"It is {number}", "context": context}
    return fields | {"supporting_facts": [[f"Page {number}", 0], [f"Page {number}", 1]]} | others


def convert(tmp_path: Path, content: str, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "in.json").write_text(content, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "in.json"), str(tmp_path / "out"), *options]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[3])}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def read(tmp_path: Path, name: str) -> Any:
    text = (tmp_path / "out" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


def test_paragraphs_become_a_corpus_and_questions_keep_theirs(tmp_path: Path) -> None:
    done = convert(tmp_path, json.dumps([item(n) for n in range(10)]))
    assert done.stdout == "11 paragraphs, 10 questions\n"
    corpus = read(tmp_path, "corpus.jsonl")
    assert corpus[:2] == [
        {"id": "Shared", "title": "Shared", "text": "Known to all. Twice."},
        {"id": "Page 0", "title": "Page 0", "text": "It is 0."},
    ]
    parts = {part: read(tmp_path, f"qa_{part}.json") for part in ("train", "valid", "test")}
    assert {part: len(questions) for part, questions in parts.items()} == {"train": 7, "valid": 1, "test": 2}
    assert sorted(q["id"] for questions in parts.values() for q in questions) == sorted(f"q{n}" for n in range(10))
    number = parts["test"][0]["id"][1:]
    assert parts["test"][0] == {
        "id": f"q{number}",
        "question": f"What is {number}?",
        "answers": [f"It is {number}"],
        "ctxs": [
            {"document_id": "Shared", "title": "Shared", "text": "Known to all. Twice.", "gold": False},
            {"document_id": f"Page {number}", "title": f"Page {number}", "text": f"It is {number}.", "gold": True},
        ],
        "document_ids": [f"Page {number}"],
    }
    [first, *_] = read_questions(tmp_path / "out" / "qa_test.json")
    assert [context.document_id for context in first.contexts] == ["Shared", f"Page {number}"]


def test_the_layout_with_columns_gives_the_same_files(tmp_path: Path) -> None:
    rows = [item(n) for n in range(10)]
    columns = [
        row
        | {"context": dict(zip(("title", "sentences"), map(list, zip(*row["context"], strict=True)), strict=True))}
        | {"supporting_facts": {"title": [row["supporting_facts"][0][0]], "sent_id": [0]}}
        for row in rows
    ]
    found = []
    for folder, content in (("a", json.dumps(rows)), ("b", "\n".join(json.dumps(row) for row in columns))):
        (tmp_path / folder).mkdir()
        assert convert(tmp_path / folder, content).returncode == 0
        found.append({path.name: path.read_bytes() for path in (tmp_path / folder / "out").iterdir()})
    assert found[0] == found[1]


def test_two_texts_under_one_title_are_two_documents(tmp_path: Path) -> None:
    other = item(
        1, context=[["Shared", ["Something else."]], ["Shared #2", ["A third."]]], supporting_facts=[["Shared", 0]]
    )
    convert(tmp_path, json.dumps([item(0), other]), "--test", "0", "--valid", "0")
    assert [line["id"] for line in read(tmp_path, "corpus.jsonl")] == ["Shared", "Page 0", "Shared #2", "Shared #2 #2"]
    assert read(tmp_path, "qa_train.json")[1]["document_ids"] == ["Shared #2"]


def test_gold_paragraphs_can_come_first_and_the_seed_moves_questions(tmp_path: Path) -> None:
    content = json.dumps([item(n) for n in range(30)])
    convert(tmp_path, content, "--gold-first")
    first = [question["id"] for question in read(tmp_path, "qa_test.json")]
    assert [context["gold"] for context in read(tmp_path, "qa_test.json")[0]["ctxs"]] == [True, False]
    convert(tmp_path, content, "--seed", "5")
    assert [question["id"] for question in read(tmp_path, "qa_test.json")] != first


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("[{", (), "in.json: broken JSON at line 1"),
        ('[{"question": "why"}]', (), "in.json: item 0 has 'None' in 'context'"),
        (json.dumps([item(0, answer=None)]), (), "in.json: item 0 has no 'answer'"),
        (json.dumps([item(0)]), ("--test", "0.9"), "--valid and --test need to be fractions"),
    ],
)
def test_a_file_that_is_not_hotpotqa_is_told_in_one_line(
    tmp_path: Path, content: str, options: tuple[str, ...], message: str
) -> None:
    done = convert(tmp_path, content, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_converted_corpus_goes_through_the_corpus_stage(tmp_path: Path) -> None:
    convert(tmp_path, json.dumps([item(n) for n in range(30)]))
    config = settings({"name": "hotpotqa", "path": tmp_path / "out" / "corpus.jsonl"})
    assert run(config, tmp_path / "1_corpus").counts["documents"] == 31
