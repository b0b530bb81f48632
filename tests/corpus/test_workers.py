"""How the text is cut into blocks, and by how many workers it is tokenized, changes no byte."""

from __future__ import annotations

import gzip
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from retro.common.artifacts import Manifest, read_manifest
from retro.common.blocks import Block, BlockStore
from retro.common.errors import ArtifactError, DataError
from retro.common.launcher import Worker
from retro.corpus import build
from retro.corpus.build import run
from retro.corpus.config import CorpusConfig
from retro.corpus.reader import Corpus
from tests.corpus.texts import artifact_bytes, settings, story, tiny_tokenizer, write_stories


def mixed(folder: Path, **others: Any) -> CorpusConfig:
    """Four sources of different layouts, with bad lines, lines without ids, and small files."""
    folder.mkdir(exist_ok=True)
    lines = write_stories(folder / "a.jsonl", 30).read_bytes().splitlines(keepends=True)
    lines[4:4] = [b"nonsense\n", b"\n", json.dumps({"text": story(99)}).encode() + b"\n", b'{"text": 1}\n']
    (folder / "a.jsonl").write_bytes(b"".join(lines) + json.dumps({"text": story(100)}).encode())
    (folder / "t.txt").write_text("\n\n".join(story(n) for n in range(20)))
    (folder / "many").mkdir(exist_ok=True)
    for n in range(12):
        (folder / "many" / f"{n:02d}.txt").write_text(story(n) if n % 5 else "")
    (folder / "z.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes(), mtime=0))
    names = {"a": "a.jsonl", "t": "t.txt", "many": "many", "z": "z.jsonl.gz"}
    return settings(*({"name": name, "path": folder / file} for name, file in names.items()), **others)


def in_child(work: Callable[[], Any]) -> int:
    """Start `work` in another process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def succeeded(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("block_bytes", [1, 700, 4000])
def test_the_size_of_a_block_changes_no_byte(tmp_path: Path, block_bytes: int) -> None:
    run(mixed(tmp_path / "in"), tmp_path / "whole")
    run(mixed(tmp_path / "in", block_bytes=block_bytes), tmp_path / "cut")
    assert artifact_bytes(tmp_path / "cut") == artifact_bytes(tmp_path / "whole")
    assert run(mixed(tmp_path / "in"), tmp_path / "cut") == read_manifest(tmp_path / "whole", "corpus")


def test_made_up_ids_and_rejects_name_the_line_of_the_file(tmp_path: Path) -> None:
    run(mixed(tmp_path / "in", block_bytes=300), tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    last = corpus.token_file(0).documents - 1
    assert [corpus.document_id(0, n) for n in (3, 4, 5, last)] == ["d3", "a.jsonl:7", "d4", "a.jsonl:35"]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [(r["source"], r["file"], r["line"]) for r in rejects[:2]] == [("a", "a.jsonl", 5), ("a", "a.jsonl", 8)]


def test_several_workers_make_the_bytes_of_one(tmp_path: Path) -> None:
    config = mixed(tmp_path / "in", block_bytes=500)
    run(config, tmp_path / "one")
    children = [in_child(lambda n=n: run(config, tmp_path / "three", worker=Worker(n, 3))) for n in range(3)]  # type: ignore[misc]
    assert [succeeded(child) for child in children] == [True] * 3
    assert artifact_bytes(tmp_path / "three") == artifact_bytes(tmp_path / "one")
    assert run(config, tmp_path / "three", worker=Worker(1, 3)) == read_manifest(tmp_path / "one", "corpus")


def test_one_worker_of_two_does_the_others_share(tmp_path: Path) -> None:
    config = mixed(tmp_path / "in", block_bytes=500)
    run(config, tmp_path / "one")
    run(config, tmp_path / "half", worker=Worker(1, 2))
    assert artifact_bytes(tmp_path / "half") == artifact_bytes(tmp_path / "one")


def test_a_worker_that_is_killed_costs_its_unfinished_block_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = mixed(tmp_path / "in", block_bytes=500)
    made: list[int] = []
    write = BlockStore.write

    def watched(self: BlockStore, number: int, block: Block) -> None:
        write(self, number, block)
        if self.directory.name == "tokens":
            made.append(number)
            if os.getpid() != parent and len(made) == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    parent = os.getpid()
    monkeypatch.setattr(BlockStore, "write", watched)
    assert not succeeded(in_child(lambda: run(config, tmp_path / "killed")))
    run(config, tmp_path / "killed")
    assert made == list(range(4, 12))
    run(config, tmp_path / "whole")
    assert made[8:] == list(range(12))
    assert artifact_bytes(tmp_path / "killed") == artifact_bytes(tmp_path / "whole")


def test_a_damaged_block_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = mixed(tmp_path / "in", block_bytes=500)
    run(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "Finalizer", _interrupted)
        run(config, tmp_path / "broken")
    with h5py.File(tmp_path / "broken" / "blocks" / "tokens" / "000002.h5", "r+") as block:
        block["tokens"][0, 5] ^= 1
    run(config, tmp_path / "broken")
    assert "000002.h5 has changed bytes (checksum); it is built again" in caplog.text
    assert artifact_bytes(tmp_path / "broken") == artifact_bytes(tmp_path / "whole")


def _interrupted(**_: object) -> Manifest:
    raise KeyboardInterrupt


def test_a_worker_that_reads_blocks_while_another_ends_the_stage_returns_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = mixed(tmp_path / "in")
    whole = run(config, tmp_path / "out")

    def late(*_: object) -> Manifest:
        run(config, tmp_path / "out")
        raise ArtifactError(tmp_path, "is missing", "Run again")

    (tmp_path / "out" / "manifest.json").unlink()
    make = build._make
    monkeypatch.setattr(build, "_make", lambda *a: (monkeypatch.setattr(build, "_make", make), late())[1])
    assert run(config, tmp_path / "out") == whole


def test_an_error_in_a_block_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    config = mixed(tmp_path / "in", tokenizer={"path": tiny_tokenizer_dir(tmp_path)})
    content = (tmp_path / "in" / "z.jsonl.gz").read_bytes()
    (tmp_path / "in" / "z.jsonl.gz").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"z\.jsonl\.gz: is cut short or damaged"):
        run(config, tmp_path / "out")
    (tmp_path / "in" / "z.jsonl.gz").write_bytes(content)
    assert run(config, tmp_path / "out").counts["sources"]["z"]["documents"] == 32


def tiny_tokenizer_dir(folder: Path) -> Path:
    tiny_tokenizer(folder / "given")
    return folder / "given"


TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["the quick brown fox", " two\n\nlines ", "", "é\u2028x", "= A ="]),
)


@trials(max_examples=25, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=12), cuts=st.integers(1, 200))
def test_any_small_corpus_is_the_same_however_it_is_cut(
    texts: list[str], cuts: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    lines = [{"text": text} | ({"id": f"n{n}"} if n % 3 else {}) for n, text in enumerate([*texts, "one good text"])]
    (folder / "a.jsonl").write_text(
        "\n".join(json.dumps(line, ensure_ascii=n % 2 == 0) for n, line in enumerate(lines)), "utf-8"
    )
    given_tokenizer = {"path": tiny_tokenizer_dir(folder)}
    source = {"name": "a", "path": folder / "a.jsonl"}
    for name, block_bytes in (("whole", 1 << 26), ("cut", cuts)):
        config = settings(source, tokenizer=given_tokenizer, split=(1.0, 0.0, 0.0), block_bytes=block_bytes)
        run(config, folder / name)
    assert artifact_bytes(folder / "cut") == artifact_bytes(folder / "whole")
    corpus = Corpus.open(folder / "cut")
    file = corpus.token_file(0)
    kept = [line["text"] for line in lines if line["text"].split()]
    found = [
        corpus.tokenizer.decode(file.tokens[a : b - 1])
        for a, b in zip(file.document_starts[:-1], file.document_starts[1:], strict=True)
    ]
    assert [text.replace("\u2581", " ") for text in kept] == found
