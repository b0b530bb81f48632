"""`retro db` as users type it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retro.cli import main
from retro.run.config import as_yaml
from retro.run.pipeline import database_home
from retro.updates.state import open_latest
from tests.corpus.texts import story
from tests.tiny_road import run_stages, small_config

Retro = Callable[..., str]


@pytest.fixture
def retro(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retro:
    """Runs the command line in this process; gives what it prints, and the one line of an error."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["retro", *arguments])
        try:
            main.main()
        except SystemExit as leave:
            assert leave.code in (0, 2)
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("retro: ")]
        return "\n".join([printed.out, *errors])

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run whose database is still to be made."""
    path = tmp_path / "run.yaml"
    path.write_text(as_yaml(small_config(tmp_path)))
    run_stages(small_config(tmp_path), "corpus")
    return path


def test_a_database_is_built_and_changed_from_the_command_line(
    retro: Retro, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    home = database_home(small_config(tmp_path))
    # The stage, as any other.
    retro("db", str(config), "db.documents_per_block=7")
    assert (home.base.db / "db.h5").exists()
    retro("index", str(config))

    new = tmp_path / "new.jsonl"
    new.write_text(json.dumps({"id": "one", "text": story(1)}) + "\n")
    retro("db", "add", str(config), str(new))
    new.write_text(json.dumps({"id": "one", "text": story(2)}) + "\n")
    retro("db", "replace", str(config), str(new), "--source", "text")
    ids = tmp_path / "ids.txt"
    ids.write_text("garden-2\n\nplanet-3\n")
    retro("db", "remove", str(config), "--id", "river-0", "--ids", str(ids))
    retro("db", "compact", str(config))
    shown = retro("db", "versions", str(config))
    assert [word for word in ("as built", "1 added", "1 replaced", "3 removed", "compact") if word not in shown] == []
    current = open_latest(home)
    assert current.number == 4
    documents = {current.database.document_id(row) for row in range(current.database.rows)}
    assert len(documents) == 60 + 1 - 3
    assert not documents & {"river-0", "garden-2", "planet-3"}
    assert current.manifest.fingerprint in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], "PATH = []: needs one file or folder of documents"),
        (["add", "a.jsonl", "b.jsonl"], "PATH = ['a.jsonl', 'b.jsonl']: needs one file"),
        (["add", "absent.jsonl"], "absent.jsonl: no such file or folder"),
        (["remove"], "--id = []: needs the id of a document, or --ids FILE"),
        (["remove", "--ids", "absent.txt"], "absent.txt: cannot be read"),
        (["remove", "--id", "river-x"], "source 'text': the database has no document 'river-x'"),
        (["versions", "database.run_dir=elsewhere"], "database.run_dir = 'elsewhere': needs to be left out"),
    ],
)
def test_mistakes_are_one_line(retro: Retro, config: Path, arguments: list[str], words: str) -> None:
    run_stages(small_config(config.parent), "db", "index")
    assert words in retro("db", arguments[0], str(config), *arguments[1:])


def test_a_database_that_was_not_built_is_not_changed(retro: Retro, config: Path) -> None:
    assert "2_db/manifest.json: is missing. Run `retro db` first" in retro("db", "remove", str(config), "--id", "x")


def test_help_names_the_commands(retro: Retro) -> None:
    shown = retro("db", "--help")
    assert [word for word in ("add", "remove", "replace", "compact", "versions") if word not in shown] == []
    assert "Token files to the chunk database" in retro("db", "build", "--help")
