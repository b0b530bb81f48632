from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from retro.common.blocks import Block
from retro.common.errors import ArtifactError
from retro.common.files import write_json
from retro.corpus.block_offsets import open_work
from retro.corpus.build import run
from retro.corpus.config import CorpusConfig
from retro.corpus.token_files import TokenFileWriter
from tests.corpus.test_workers import mixed
from tests.corpus.texts import settings, tiny_tokenizer, write_stories


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    config = mixed(tmp_path / "in", block_bytes=500)
    run(config, tmp_path / "out")
    return config


def differing(config: CorpusConfig, out: Path) -> list[int]:
    """Blocks that come out otherwise when they are made once more."""
    work = open_work(config, out)
    blocks = range(len(work.store))
    assert len(blocks) == 12
    return [n for n in blocks if Block(work.make(n, lambda _: None).arrays).checksum != work.checksum(n)]


def test_every_block_comes_out_as_it_stands_in_the_corpus(config: CorpusConfig, tmp_path: Path) -> None:
    assert differing(config, tmp_path / "out") == []
    # How large the blocks were is told by the report, whatever the settings say now.
    assert differing(config.model_copy(update={"block_bytes": 1 << 20}), tmp_path / "out") == []


@pytest.mark.parametrize("file", ["a.bin", "a.documents.jsonl", "sources/a.rejects.jsonl"])
def test_a_changed_byte_shows_in_its_block(config: CorpusConfig, tmp_path: Path, file: str) -> None:
    path = tmp_path / "out" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    [block] = differing(config, tmp_path / "out")
    # The rejects of source a stand in its first blocks, its last document in its last block.
    assert open_work(config, tmp_path / "out").names(block).endswith(" of a")
    assert (block == len([0 for n in range(12) if " of a" in open_work(config, tmp_path / "out").names(n)]) - 1) == (
        "rejects" not in file
    )


def test_changed_input_is_named(config: CorpusConfig, tmp_path: Path) -> None:
    path = tmp_path / "in" / "t.txt"
    path.write_text(path.read_text() + "more")
    with pytest.raises(ArtifactError, match=r"source 't' was made from other input: t\.txt had \d+ bytes"):
        open_work(config, tmp_path / "out")


def test_input_that_is_gone_is_passed_over(
    config: CorpusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "in" / "many")
    with caplog.at_level(logging.WARNING):
        work = open_work(config, tmp_path / "out")
    assert "many is gone, so its blocks cannot be made once more" in caplog.text
    names = [work.names(n) for n in range(len(work.store))]
    assert {name.split()[-1] for name in names} == {"a", "t", "z"}
    assert all(Block(work.make(n, lambda _: None).arrays).checksum == work.checksum(n) for n in range(len(work.store)))


def test_a_report_that_does_not_tell_the_blocks_is_named(config: CorpusConfig, tmp_path: Path) -> None:
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    del report["blocks"]["extents"]["t"], report["checksum"]
    write_json(tmp_path / "out" / "report.json", report)
    with pytest.raises(
        ArtifactError, match=r"report\.json: does not tell which blocks 't' was made of\. Run `retro cor"
    ):
        open_work(config, tmp_path / "out")


def test_a_megatron_corpus_has_no_blocks(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "given")
    with TokenFileWriter(tmp_path / "wiki", tokenizer.vocab_size) as writer:
        for _ in range(20):
            writer.add_document([5, 6, 7])
        writer.finish()
    config = settings({"name": "m", "path": tmp_path / "wiki"}, tokenizer={"path": tmp_path / "given"})
    run(config, tmp_path / "out")
    assert len(open_work(config, tmp_path / "out").store) == 0


def test_a_source_finished_by_an_earlier_run_has_no_blocks_to_tell(tmp_path: Path) -> None:
    config = settings({"name": "a", "path": write_stories(tmp_path / "a.jsonl", 30)})
    run(config, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    run(config, tmp_path / "out")
    with pytest.raises(ArtifactError, match="does not tell which blocks 'a' was made of"):
        open_work(config, tmp_path / "out")
