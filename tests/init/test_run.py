"""`retro init`: what it writes loads, and the corpus and db stages run on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from retro.cli.main import app
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.init.run import InitResult, Options, run
from retro.init.training_choices import SHAPES, ModelCandidate
from retro.init.trial import tokens_per_second
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.init.texts import write_asked, write_big_file, write_books, write_notes
from tests.tiny_road import run_stages


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rate(shaped: ModelCandidate, vocabulary: int) -> float:
    """Of a machine that need not be measured."""
    assert shaped == SHAPES[0] and vocabulary >= 300
    return 5_000.0


def init(folder: Path, **options: Any) -> InitResult:
    return run(Options(folder=folder, **options), rate)


def counts(config: RunConfig) -> dict[str, Any]:
    """What the corpus stage counted, once it and the db stage have run."""
    run_stages(config, "corpus", "db")
    found: dict[str, Any] = json.loads((stage("corpus").path(config) / "manifest.json").read_text())["counts"]
    assert json.loads((stage("db").path(config) / "manifest.json").read_text())["counts"]["rows"] > 0
    return found


def test_long_books_become_documents_at_blank_lines_and_each_split_has_some(tmp_path: Path) -> None:
    made = init(write_books(tmp_path / "books").relative_to(tmp_path))
    config = load_run_config(made.output, [])
    (source,) = config.corpus.sources
    assert (source.documents, str(source.path), config.corpus.min_words) == ("blank_line", "books", 5)
    found = counts(config)
    # 5 books of 100 paragraphs and 5 headings.
    assert (found["documents"], config.corpus.split) == (500, (0.9, 0.05, 0.05))
    assert made.command == "retro run --until perplexity run.yaml"
    assert config.run_dir == Path("runs/books")


def test_short_notes_are_documents_as_they_are(tmp_path: Path) -> None:
    config = load_run_config(init(write_notes(tmp_path / "notes"), minutes=1).output, [])
    assert (config.corpus.sources[0].documents, config.corpus.min_words) == ("auto", 1)
    assert (config.index.embedder.kind, config.neighbors.source, config.search.source) == ("bm25", "bm25", "bm25")
    assert counts(config)["documents"] == 60


def test_one_big_file_without_blank_lines_is_parted_at_its_lines(tmp_path: Path) -> None:
    config = load_run_config(init(write_big_file(tmp_path / "big.txt")).output, [])
    assert config.corpus.sources[0].documents == "line"
    assert counts(config)["documents"] == 300


def test_questions_are_parted_into_files_that_the_settings_name(tmp_path: Path) -> None:
    asked = write_asked(tmp_path / "q.json")
    made = init(write_notes(tmp_path / "notes"), questions=asked, output=Path("mine.yaml"))
    config = load_run_config(made.output, [])
    assert made.command == "retro run mine.yaml"
    assert [len(json.loads(path.read_text())) for path in made.files] == [32, 4, 4]
    (one,) = config.sft.data.sets
    assert (one.path, one.dev, config.generate.questions) == (made.files[0], made.files[1], (made.files[2],))
    counts(config)


def test_every_choice_has_its_reason_in_the_file(tmp_path: Path) -> None:
    made = init(write_books(tmp_path / "books"), questions=write_asked(tmp_path / "q.json"))
    text = " ".join(made.output.read_text().replace("#", " ").split())
    silent = [choice.setting for choice in made.choices if choice.why and " ".join(choice.why.split()) not in text]
    assert silent == []
    for setting in ("corpus.sources", "corpus.split", "corpus.tokenizer.vocab_size", "index.embedder", "model.size"):
        assert next(choice.why for choice in made.choices if choice.setting == setting)


def test_nothing_is_written_over_unless_forced(tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    made = init(notes)
    before = made.output.read_bytes()
    with pytest.raises(ArtifactError, match=r"run\.yaml: is there already\. Give another --output, or --force"):
        init(notes, minutes=99)
    assert made.output.read_bytes() == before
    init(notes, minutes=99, force=True)
    assert made.output.read_bytes() != before
    (tmp_path / "other_questions").mkdir()
    (tmp_path / "other_questions/dev.json").write_text("mine")
    asked = write_asked(tmp_path / "q.json")
    with pytest.raises(ArtifactError, match=r"other_questions/dev\.json: is there already"):
        init(notes, questions=asked, output=Path("other.yaml"))
    assert not Path("other.yaml").exists()


def test_a_run_directory_that_is_taken_is_not_used_again(tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "my notes")
    (tmp_path / "runs/my_notes").mkdir(parents=True)
    assert load_run_config(init(notes).output, []).run_dir == Path("runs/my_notes_2")


def test_too_little_text_is_said_in_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        init(write_notes(tmp_path / "notes", notes=4, words=20))
    assert str(caught.value).startswith(f"{tmp_path}/notes: holds 4 documents with ")
    assert "the smallest model needs 2,049 tokens to train on for its first step. Give more text, or ask" in str(
        caught.value
    )
    assert not Path("run.yaml").exists()


def test_a_size_is_one_setting_for_all(tmp_path: Path) -> None:
    made = init(write_notes(tmp_path / "notes"), size="mini")
    assert made.minutes is None
    assert load_run_config(made.output, []).model.layers == 6
    assert "--size mini" in made.output.read_text()


def test_mistakes_are_said_before_anything_is_written(tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    for minutes in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"--minutes = .*: needs a positive number"):
            init(notes, minutes=minutes)
    with pytest.raises(ConfigError, match=r"--size = 'huge': needs one of tiny, mini, small"):
        init(notes, size="huge")
    with pytest.raises(ConfigError, match=r"--output = .*needs a place where files can be written \(Not a directory"):
        init(notes, output=next(notes.iterdir()) / "sub" / "run.yaml")
    (tmp_path / "q.json").write_text("{broken")
    with pytest.raises(DataError, match=r"q\.json: "):
        init(notes, questions=tmp_path / "q.json")
    assert sorted(os.listdir(tmp_path)) == ["notes", "q.json"]  # noqa: PTH208 - hidden files too


def test_the_command_measures_prints_and_names_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notes(tmp_path / "notes")
    app(["init", "notes", "--minutes", "1"], standalone_mode=False)
    said = capsys.readouterr().out
    assert said.endswith("next: retro run --until perplexity run.yaml\n")
    assert "corpus.split: [0.9, 0.05, 0.05]" in said and "measured here by" in " ".join(said.split())
    app(["config", "show", "run.yaml"], standalone_mode=False)
    assert "run_dir: runs/notes" in capsys.readouterr().out


def test_a_trial_times_real_steps() -> None:
    assert tokens_per_second(SHAPES[0].shape(512), SHAPES[0].train) > 0
