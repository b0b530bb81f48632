"""Documents become a file of passages, in the same bytes however many processes make them and wherever they stop."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.corpus import build
from retro.corpus.layouts import read_spans
from retro.recipes.dense_retriever.data import segments
from retro.recipes.dense_retriever.data.segments import document_of_segment
from retro.recipes.passages.passages import Passages
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from tests.recipes.dense_retriever.data_steps import manifest, read_lines, run_step, write_lines

WINDOWS: dict[str, Any] = {"window": 4, "step": 3}


def documents(count: int, words: int = 9) -> list[dict[str, Any]]:
    return [
        {"_id": f"d{n}", "title": f"Title {n}", "text": " ".join(f"w{n}.{word}" for word in range(n % words))}
        for n in range(count)
    ]


def settings(path: Path, **more: Any) -> dict[str, Any]:
    return WINDOWS | {"sources": [{"name": "own", "path": path, "id_key": "_id"}]} | more


def test_segments_of_a_corpus_in_beirs_form(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", [*documents(7), {"_id": "e", "title": "", "text": "alone"}])
    out = run_step(tmp_path / "run", "segments", segments=settings(corpus))
    lines = read_lines(out / "passages.jsonl")
    assert [one["id"] for one in lines] == ["d1#0", "d2#0", "d3#0", "d4#0", "d5#0", "d5#1", "d6#0", "d6#1", "e#0"]
    assert [one["text"] for one in lines[4:8]] == [
        "w5.0 w5.1 w5.2 w5.3", "w5.1 w5.2 w5.3 w5.4", "w6.0 w6.1 w6.2 w6.3", "w6.2 w6.3 w6.4 w6.5"
    ]  # fmt: skip
    assert lines[4]["title"] == "Title 5"
    assert manifest(out)["counts"] == {
        "documents": 7, "documents_of_one_segment": 5, "rejected.empty text": 1, "segments": 9, "tokens": 22
    }  # fmt: skip
    assert [one["reason"] for one in read_lines(out / "rejects.jsonl")] == ["empty text"]
    passages = Passages.open(out / "passages.jsonl", tmp_path / "store")
    assert passages["d5#1"].text == "w5.1 w5.2 w5.3 w5.4"
    ids = ("a#b#12", "d7#2", "C# in depth", "12")
    assert [document_of_segment(one) for one in ids] == ["a#b", "d7", "C# in depth", "12"]


def test_the_last_segment_may_be_the_rest(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", documents(7))
    out = run_step(tmp_path / "run", "segments", segments=settings(corpus, last="rest"))
    assert read_lines(out / "passages.jsonl")[5]["text"] == "w5.3 w5.4"


def made(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("passages.jsonl", "rejects.jsonl")]


def test_blocks_workers_and_compression_change_no_byte(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", [*documents(400), {"title": "no text"}])
    packed = tmp_path / "packed/corpus.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    whole = run_step(tmp_path / "whole", "segments", segments=settings(corpus))
    assert len(read_lines(whole / "rejects.jsonl")) == 46
    for number, more in enumerate([{"block_bytes": 700}, {"block_bytes": 3000, "workers": 2}]):
        assert made(run_step(tmp_path / f"run{number}", "segments", segments=settings(corpus, **more))) == made(whole)
    out = run_step(tmp_path / "packed/run", "segments", segments=settings(packed, block_bytes=700))
    assert made(out)[0] == made(whole)[0]
    assert {one.name for one in out.iterdir() if not one.name.startswith(".verified")} == {
        *("passages.jsonl", "rejects.jsonl"), *("manifest.json", "report.json", "config.json")
    }  # fmt: skip


def test_a_stop_anywhere_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", documents(60))
    given = settings(corpus, block_bytes=200)
    whole = made(run_step(tmp_path / "whole", "segments", segments=given))
    for stop_at in (0, 1, 7):
        count, before = 0, read_spans

        def stopping(*arguments: Any, at: int = stop_at, read: Any = before) -> Any:
            nonlocal count
            count += 1
            if count > at:
                raise KeyboardInterrupt
            return read(*arguments)

        monkeypatch.setattr(segments, "read_spans", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_step(tmp_path / f"run{stop_at}", "segments", segments=given)
        monkeypatch.undo()
        assert made(run_step(tmp_path / f"run{stop_at}", "segments", segments=given)) == whole


KILLED = """
from pathlib import Path
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from tests.recipes.dense_retriever.data_steps import run_step
from tests.recipes.dense_retriever.test_segments import settings
if __name__ == "__main__":
    folder = Path({folder!r})
    run_step(folder / "killed", "segments", segments=settings(folder / "corpus.jsonl", block_bytes=2000, workers=2))
"""


def test_a_kill_with_two_processes_ends_in_the_same_bytes(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", documents(4_000))
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(folder=str(tmp_path)), encoding="utf-8")
    started = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": os.getcwd()})  # noqa: PTH109
    blocks = tmp_path / "killed/recipe_dense_retriever/segments/blocks"
    while started.poll() is None and len(list(blocks.glob("*.h5"))) < 5:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (blocks.parent / "manifest.json").exists()
    out = run_step(tmp_path / "killed", "segments", segments=settings(corpus, block_bytes=2000))
    assert made(out) == made(run_step(tmp_path / "whole", "segments", segments=settings(corpus)))


def test_two_documents_of_one_id_are_named(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", [*documents(40), {"_id": "d8", "text": "again"}])
    # Wherever the second one is: in the same file, or in another source.
    both = (
        r"own: have 1 ids that several documents have, first 'd8': own, corpus.jsonl line 9, and own, corpus.* line 41"
    )
    with pytest.raises(DataError, match=both):
        run_step(tmp_path / "run", "segments", segments=settings(corpus, block_bytes=200))
    one = write_lines(tmp_path / "one.jsonl", [{"_id": "d8", "text": "once"}])
    two = write_lines(tmp_path / "two.jsonl", [{"_id": "d7", "text": "other"}, {"_id": "d8", "text": "again"}])
    sources = [{"name": path.stem, "path": path, "id_key": "_id"} for path in (one, two)]
    with pytest.raises(
        DataError, match=r"one, two: have 1 ids .*'d8': one, one.jsonl line 1, and two, two.jsonl line 2"
    ):
        run_step(tmp_path / "several", "segments", segments={"sources": sources})


def test_sources_without_documents_are_named(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"_id": "d8", "text": " "}])
    with pytest.raises(DataError, match="own: hold no document"):
        run_step(tmp_path / "run", "segments", segments=settings(corpus))
    with pytest.raises(DataError, match="no such file or folder"):
        run_step(tmp_path / "run", "segments", segments=settings(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b'[{"_id": "a", "text": "b"}]',
            r"1 not a JSON object; the first: c.jsonl line 1: found list\): it is one JSON",
        ),
        ('{"_id": "a", "text": "b"}\n'.encode("utf-16"), r"it is UTF-16.* Convert it: iconv -f UTF-16 -t UTF-8"),
        (
            b'{"_id": "a", "body": "two words"}',
            r"Set text_key: body for the source 'own' in recipe.dense_retriever.seg",
        ),
        (b"", r"nothing was found"),
    ],
)
def test_a_file_that_gives_no_document_is_told_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        run_step(tmp_path / "run", "segments", segments=settings(tmp_path / "c.jsonl"))


def test_tokens_alone_and_built_in_texts_of_no_corpus_are_refused(tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        (tmp_path / f"tokens{suffix}").write_bytes(b"x")
    with pytest.raises(ConfigError, match="needs text; a Megatron"):
        run_step(tmp_path / "run", "segments", segments=settings(tmp_path / "tokens"))
    built_in = {"sources": [{"name": "docs", "built_in": "pystdlib"}]}
    with pytest.raises(ConfigError, match="needs a path"):
        run_step(tmp_path / "run", "segments", segments=built_in)


def test_white_space_tokens_alone_make_no_segment(tmp_path: Path) -> None:
    from tests.recipes.dense_retriever.test_windows import byte_level

    corpus = write_lines(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "a   b"}])
    given = settings(corpus, tokenizer=byte_level(tmp_path), window=1, step=1)
    out = run_step(tmp_path / "run", "segments", segments=given)
    assert [one["id"] for one in read_lines(out / "passages.jsonl")] == ["d#0", "d#4"]
    assert manifest(out)["counts"]["segments_without_text"] == 3


def test_other_input_or_settings_are_noticed(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", documents(40))
    run_step(tmp_path / "run", "segments", segments=settings(corpus))
    run_step(tmp_path / "run", "segments", segments=settings(corpus, workers=2, block_bytes=100))
    with pytest.raises(ArtifactError, match="window"):
        run_step(tmp_path / "run", "segments", segments=settings(corpus, window=5))
    write_lines(corpus, documents(41))
    with pytest.raises(ArtifactError, match="facts"):
        run_step(tmp_path / "run", "segments", segments=settings(corpus))


def test_lines_are_json_that_any_tool_reads(tmp_path: Path) -> None:
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"_id": "é", "title": "T\u2028", "text": 'a\u2028b "c" \\ 𝒳'}])
    out = run_step(tmp_path / "run", "segments", segments=settings(corpus, window=9))
    (line,) = (out / "passages.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line) == {"id": "é#0", "title": "T\u2028", "text": 'a\u2028b "c" \\ 𝒳'}


def test_without_sources_the_runs_own_corpus_is_cut(tmp_path: Path) -> None:
    text = " ".join(f"word{n}" for n in range(9))
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": f"{text} {n}"} for n in range(60)])
    own = {"sources": [{"name": "own", "path": corpus}], "tokenizer": {"vocab_size": 300}}
    config = RunConfig(run_dir=tmp_path / "run", corpus=own)
    build.run(config.corpus, stage("corpus").path(config))
    out = run_step(tmp_path / "run", "segments", run={"corpus": own}, segments=WINDOWS)
    lines = read_lines(out / "passages.jsonl")
    assert len(lines) == 60 * 3
    assert [one["text"] for one in lines[3:6]] == [
        "word0 word1 word2 word3", "word3 word4 word5 word6", "word6 word7 word8 1"
    ]  # fmt: skip
    assert "corpus" in manifest(out)["parents"]
