"""Stop the stage anywhere, run it again: the same bytes as an unbroken run."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retro.common.blocks import Block
from retro.corpus import tokenize
from retro.corpus.build import run
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source
from tests.corpus.texts import artifact_bytes, settings, write_stories


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    paths = {name: write_stories(tmp_path / f"{name}.jsonl", 30, start) for name, start in (("a", 0), ("b", 30))}
    paths["b"].write_bytes(paths["b"].read_bytes() + b"nonsense\n")
    # Two blocks of each.
    return settings(*({"name": name, "path": path} for name, path in paths.items()), block_bytes=2500)


def killed_at_rename(number: int, work: Callable[[], Any]) -> bool:
    """Do `work` in a child that kills itself with SIGKILL in the middle of its `number`th rename.

    Returns:
        False when the work ended before it came to that.
    """
    child = os.fork()
    if child == 0:
        try:
            _kill_at(number)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _kill_at(number: int) -> None:
    renames = 0
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        # Odd numbers stop before a file has its name, even ones just after.
        if renames == (number + 1) // 2 and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        moved = rename(self, target)
        if renames == number // 2 and number % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = replace  # type: ignore[method-assign, assignment]


def test_a_kill_at_any_rename_costs_nothing_but_time(config: CorpusConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "whole")
    whole = artifact_bytes(tmp_path / "whole")
    kills = 0
    for number in range(1, 100):
        out = tmp_path / f"killed{number}"
        if not killed_at_rename(number, lambda out=out: run(config, out)):  # type: ignore[misc]
            break
        kills += 1
        run(config, out)
        assert artifact_bytes(out) == whole, number
    assert kills >= 30


def test_a_run_killed_again_and_again_still_ends_the_same(config: CorpusConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "whole")
    out = tmp_path / "killed"
    for number in (3, 5, 2, 4, 1):
        killed_at_rename(number, lambda: run(config, out))
    run(config, out)
    assert artifact_bytes(out) == artifact_bytes(tmp_path / "whole")


def test_a_finished_source_is_not_tokenised_again(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(config, out)
    whole = artifact_bytes(out)
    (out / "manifest.json").unlink()
    (out / "sources" / "b.json").unlink()
    made: list[str] = []
    plain = tokenize.tokenize

    def watched(source: Source, *others: Any) -> Block:
        made.append(source.name)
        return plain(source, *others)

    monkeypatch.setattr("retro.corpus.tokenize.tokenize", watched)
    run(config, out)
    assert made == ["b", "b"]  # its two blocks
    assert artifact_bytes(out) == whole


@pytest.mark.parametrize("file", ["a.bin", "a.idx", "a.documents.jsonl", "sources/b.rejects.jsonl"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_made_again_with_a_warning(
    config: CorpusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    out = tmp_path / "out"
    run(config, out)
    whole = artifact_bytes(out)
    (out / "manifest.json").unlink()
    content = bytearray((out / file).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        (out / file).unlink()
    else:
        (out / file).write_bytes(content if damage == "flip" else content[:-1])
    with caplog.at_level(logging.WARNING):
        run(config, out)
    why = "a file is missing" if damage == "remove" else "a file's bytes have changed"
    assert f"{'b' if '/b' in file else 'a'} is made again: {why}" in caplog.text
    assert artifact_bytes(out) == whole


def test_input_that_changed_after_a_kill_is_read_anew(
    config: CorpusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(config, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    write_stories(tmp_path / "a.jsonl", 35)
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "out")
    assert "a is made again: a.jsonl had " in caplog.text
    run(config, tmp_path / "fresh")
    assert artifact_bytes(tmp_path / "out") == artifact_bytes(tmp_path / "fresh")


def test_settings_that_changed_after_a_kill_are_followed(
    config: CorpusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(config, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    other = config.model_copy(update={"min_words": 12})
    with caplog.at_level(logging.WARNING):
        run(other, tmp_path / "out")
    assert "a is made again: made under other settings" in caplog.text
    run(other, tmp_path / "fresh")
    assert artifact_bytes(tmp_path / "out") == artifact_bytes(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("sources/a.json", "a is made again"),
        ("report.json", "checksums of the input are taken again"),
        ("tokenizer/made_from.json", "the tokenizer is made again"),
    ],
)
def test_what_was_only_kept_to_save_work_is_made_again_where_it_is_damaged(
    config: CorpusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, said: str
) -> None:
    run(config, tmp_path / "out")
    whole = artifact_bytes(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    assert (tmp_path / "out" / file).is_file()
    (tmp_path / "out" / file).write_text("{")
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "out")
    assert re.search(rf"{file}: is not valid JSON .*; {said}", caplog.text)
    assert artifact_bytes(tmp_path / "out") == whole
