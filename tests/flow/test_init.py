"""From somebody's folder to perplexity, and with questions to scores, by the commands that the README has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.cli.main import app
from tests.init.texts import write_asked, write_books, write_notes

pytestmark = pytest.mark.slow


def retro(*arguments: object) -> None:
    """One `retro` command, its errors raised."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_long_books_go_through_to_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_books(tmp_path / "my_folder", paragraphs=30)
    retro("init", "my_folder", "--minutes", "0.5")
    retro("run", "--until", "perplexity", "run.yaml")
    rows = json.loads(Path("runs/my_folder/5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    assert [row["neighbors"] for row in rows] == ["real", "shuffled", "none"]
    # The vocabulary is 512: a model that had learned nothing would have that perplexity.
    assert all(row["perplexity"] < 200 and row["tokens"] > 100 for row in rows)


def test_short_notes_with_questions_go_through_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_notes(tmp_path / "my_folder")
    write_asked(tmp_path / "q.json")
    retro("init", "my_folder", "--questions", "q.json", "--minutes", "0.5")
    retro("run", "run.yaml")
    scores = json.loads(Path("runs/my_folder/8_evaluate/scores.json").read_text())
    assert scores["questions"] == 4
    assert set(scores["settings"]) == {"with_passages", "closed_book", "shuffled_passages"}
    assert Path("runs/my_folder/report.html").exists()
