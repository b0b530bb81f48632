"""Rows that are passages: windows of documents, or whole documents such as those of DPR's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.db.build import run
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.index.retriever import Passage
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.corpus.texts import artifact_bytes
from tests.db.road import DB
from tests.tiny_road import SMALL_MODEL, TOPICS, run_stages, small_config


def built(corpus_dir: Path, out: Path, **config: Any) -> ChunkDatabase:
    run(DbConfig(documents_per_block=9, **config), corpus_dir, out)
    return ChunkDatabase.open(out, Corpus.open(corpus_dir))


def test_windows_hold_the_tokens_of_their_documents(corpus_dir: Path, tmp_path: Path) -> None:
    db = built(corpus_dir, tmp_path, unit="window", window=12, step=5)
    corpus = db.corpus
    assert (db.config.unit, db.config.row_length, db.config.stride) == ("window", 12, 5)
    for source in range(2):
        file = corpus.token_file(source)
        here = np.flatnonzero((db.columns["source"][:] == source) & (db.columns["document"][:] == 3))
        begin = int(file.document_starts[3])
        assert (db.columns["token_start"][here] - begin).tolist() == [5 * place for place in range(len(here))]
        tokens, mask = db.chunk_tokens(here)
        for place, row in enumerate(tokens):
            wanted = file.tokens[begin + 5 * place : begin + 5 * place + int(mask[place].sum())]
            assert row[mask[place]].tolist() == wanted.tolist()
    # A passage has no continuation: what is retrieved is itself.
    tokens, mask = db.neighbor_tokens(np.array([0]))
    assert int(mask.sum()) == int(db.columns["token_count"][0])


def test_a_row_is_a_whole_document_and_a_longer_one_is_named(corpus_dir: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(corpus_dir)
    lengths = [np.diff(corpus.token_file(source).document_starts) - 1 for source in range(2)]
    longest = int(max(one.max() for one in lengths))
    db = built(corpus_dir, tmp_path / "whole", unit="row", window=longest)
    assert db.rows == sum(map(len, lengths))
    assert sorted(db.columns["token_count"][:].tolist()) == sorted(np.concatenate(lengths).tolist())
    with pytest.raises(
        ConfigError, match=rf"db.window = {longest - 1}: needs at least {longest}, the tokens of document"
    ):
        built(corpus_dir, tmp_path / "cut", unit="row", window=longest - 1)


def test_a_database_in_chunks_has_the_bytes_that_it_had(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    # Settings of passages say nothing about chunks, and its manifest does not name them.
    run(DB.model_copy(update={"window": 99, "step": 7}), corpus_dir, tmp_path)
    ours, theirs = artifact_bytes(tmp_path), artifact_bytes(db_dir)
    assert {name: ours[name] for name in ("db.h5", "manifest.json")} == {
        name: theirs[name] for name in ("db.h5", "manifest.json")
    }


def test_a_step_beyond_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DbConfig.step = 5: needs at most window = 4"):
        DbConfig(unit="window", window=4, step=5)


def passages_run(folder: Path, *overrides: str) -> RunConfig:
    """A run over a table of passages, as DPR's is."""
    words = {topic: [f"{topic}{number}" for number in range(12)] for topic in TOPICS}
    random = np.random.default_rng(0)
    lines = ["id\ttext\ttitle"]
    for number in range(60):
        topic = TOPICS[number % len(TOPICS)]
        text = " ".join(map(str, random.choice(words[topic], size=20)))
        lines.append(f"{number}\t{text}\t{topic}")
    (folder / "psgs.tsv").write_text("\n".join(lines) + "\n")
    settings = [f"run_dir={folder}/run", f"corpus.sources=[{{name: psgs, path: {folder}/psgs.tsv}}]",
                "corpus.tokenizer.vocab_size=400", "corpus.split=[0.8, 0.1, 0.1]", "corpus.min_words=1",
                "db={unit: row, window: 200}", "index={embedder: {kind: hashing, dimension: 1024}}",
                f"model={SMALL_MODEL}"]  # fmt: skip
    return load_run_config(None, [*settings, *overrides])


def test_a_table_of_passages_is_searched_by_passage_and_not_pretrained_on(tmp_path: Path) -> None:
    config = passages_run(tmp_path)
    run_stages(config, "corpus", "db", "index")
    found = search(config, "garden3 garden7 garden1")
    assert found[0].title == "garden"
    assert [one.title for one in found].count("garden") >= 4
    lines = (tmp_path / "psgs.tsv").read_text().splitlines()[1:]
    texts = {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    assert all(one.text == texts[one.document_id] for one in found)
    for name in ("neighbors", "pretrain"):
        with pytest.raises(
            ConfigError, match=r"db.unit = 'row': needs 'chunk': a Retro model reads a chunk and the one"
        ):
            run_stages(config, name)


def search(config: RunConfig, text: str) -> list[Passage]:
    from retro.db.versions import open_database
    from retro.index.config import SearchConfig
    from retro.index.retriever import Retriever
    from retro.index.search import open_search

    corpus = Corpus.open(stage("corpus").path(config))
    database = open_database(stage("db").path(config), corpus)
    return Retriever(open_search(SearchConfig(), stage("index").path(config), database), database, corpus).retrieve(
        [text], 5
    )[0]


def test_passages_of_overlapping_windows_do_not_overlap(tmp_path: Path) -> None:
    config = small_config(tmp_path, "db={unit: window, window: 24, step: 8, documents_per_block: 20}")
    run_stages(config, "corpus", "db", "index")
    found = search(config, "garden3 garden7 garden1")
    by_document: dict[str, list[int]] = {}
    for one in found:
        by_document.setdefault(one.document_id, []).append(one.row)
    assert len(found) == 5
    assert all(abs(a - b) >= 3 for rows in by_document.values() for a in rows for b in rows if a != b)
