from __future__ import annotations

import signal
import sys

import pytest

from retro.cli.ask import run_and_question
from retro.cli.options import print_how_to_resume, read_named
from retro.common.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["run", "my run.yaml", "--redo", "--workers", "2"],
            "stopped by Ctrl-C; what is finished is kept. Go on with: retro run 'my run.yaml' --workers 2",
        ),
        (
            ["db", "run.yaml"],
            "stopped by Ctrl-C; what is finished is kept. Go on with: retro db run.yaml",
        ),
        (["db", "add", "run.yaml", "new.jsonl"], "stopped by Ctrl-C"),
        (["inspect", "database"], "stopped by Ctrl-C"),
        ([], "stopped by Ctrl-C"),
    ],
)
def test_the_last_line_says_how_to_go_on(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["retro", *words])
    print_how_to_resume(signal.SIGINT)
    assert capsys.readouterr().err == f"retro: {line}\n"


def test_one_process_of_several_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["retro", "pretrain", "run.yaml"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, line in (("0", "retro: stopped by SIGTERM; what is finished is kept. Go on with the same"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        print_how_to_resume(signal.SIGTERM)
        assert capsys.readouterr().err.startswith(line)
        assert line or capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "words"), [("run", []), ("run", ["run_dir=x"]), ("corpus", ["train.lr=0.1"]), ("pretrain", [])]
)
def test_no_command_starts_long_work_that_was_not_named(command: str, words: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=rf"CONFIG = None: needs a run's YAML file, as in `retro {command} tools/retro"
    ):
        read_named(command, words)


def test_a_corpus_may_be_named_without_a_file() -> None:
    config = read_named("run", ["corpus.sources=[{name: a, path: x}]"])
    assert config.corpus.sources[0].name == "a"


@pytest.mark.parametrize(
    ("words", "run", "question"),
    [
        (["run.yaml", "Who?"], ["run.yaml"], "Who?"),
        (["run.yaml", "train.steps=3", "is a=b?", "run_dir=x"], ["run.yaml", "train.steps=3", "run_dir=x"], "is a=b?"),
        (["run_dir=x", "Who?"], ["run_dir=x"], "Who?"),
    ],
)
def test_a_question_is_told_from_settings(words: list[str], run: list[str], question: str) -> None:
    assert run_and_question(words) == (run, question)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "QUESTION = None: needs a question, as in"),
        (["run.yaml"], "QUESTION = None: needs a question, as in"),
        (["run.yaml", "run_dir=x"], "QUESTION = None: needs a question, as in"),
        (["run.yaml", "Who", "wrote", "it"], r"QUESTION = \['Who', 'wrote', 'it'\]: needs one question, in quotes"),
        (["run.yaml", " "], "QUESTION = ' ': needs text"),
        (["run.yaml", "a\udcffb"], "QUESTION = .*: needs text, in UTF-8"),
        (["Who?"], "CONFIG = None: needs a run's YAML file before the question"),
    ],
)
def test_a_setting_is_never_taken_for_the_question(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_and_question(words)
